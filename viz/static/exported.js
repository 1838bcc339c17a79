// Runs in a page that viz/export.py wrote: unpacks the modules that lie in the file, and starts
// the page with them. A plain script, for modules know each other only by the map that is made here.
// (The served page does not load it.)

(async () => {
  const { nonce } = document.currentScript; // the page's policy lets nothing else begin a script
  const app = document.getElementById("app");
  const say = (words) => {
    app.textContent = words;
  };
  if (!globalThis.DecompressionStream || !HTMLScriptElement.supports?.("importmap")) {
    say("This browser cannot unpack the page. It needs Chrome or Edge 89, Firefox 113, Safari 16.4, or a later one.");
    return;
  }

  // A data block of this file: gzip, in base64 → its bytes.
  async function unpack(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(unpacked).arrayBuffer();
  }

  const add = (type, text) => {
    const script = document.createElement("script");
    script.type = type;
    script.nonce = nonce;
    script.textContent = text;
    document.head.append(script);
  };

  try {
    const page = JSON.parse(new TextDecoder().decode(await unpack("page")));
    globalThis.minivllmInside = { ...page.about, resources: page.resources, unpack };
    const imports = {};
    for (const [name, source] of Object.entries(page.modules)) {
      const parts = [source, `\n//# sourceURL=minivllm/${name.replace("#", "")}`]; // as the browser's tools name it
      imports[name] = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
    }
    add("importmap", JSON.stringify({ imports }));
    add("module", 'import "#app.js";');
  } catch (error) {
    say(`This file is damaged: ${error.message} Copy it anew from where it came.`);
  }
})();
