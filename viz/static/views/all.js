// The views of the page; each registers itself with the frame.

import "#views/board.js";
import "#views/life.js";
import "#views/pool.js";
import "#views/batch.js";
import "#views/source.js";
import "#views/compare.js";
import "#views/timeline.js";
import "#views/lens.js";
import "#views/play.js";
