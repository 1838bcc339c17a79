// In place of the live channel, in a page without a server: nothing is followed, and what is asked
// of an engine is refused in words.

import { NO_SERVER } from "#net/home.js";

export class LiveChannel {
  follow() {}

  leave() {}

  command() {
    return Promise.reject(new Error(NO_SERVER));
  }
}
