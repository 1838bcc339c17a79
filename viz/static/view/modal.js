// A dialog has the keyboard while it is open: focus goes into it, the page behind it is out of reach,
// and what had the focus gets it back. (`inert` makes the circle: no key is caught for it.)

let open = null;
let before = null; // what had the focus when it was opened

export function keepFocus(root) {
  const veil = root.querySelector(":scope > .veil");
  for (const part of root.children) if (part.inert !== (Boolean(veil) && part !== veil)) part.inert = !part.inert;
  const dialog = veil?.querySelector(".dialog") ?? null;
  const name = dialog?.getAttribute("aria-label") ?? null;
  if (name === open) return;
  const first = open === null;
  open = name;
  if (dialog) {
    if (first) before = document.activeElement === document.body ? before : document.activeElement;
    (dialog.querySelector(".find, [autofocus]") ?? dialog.querySelector("button")).focus();
    return;
  }
  if (document.activeElement === document.body || !document.activeElement) {
    const back = before?.isConnected && before.checkVisibility() ? before : root.querySelector("main");
    back?.focus();
  }
  before = null;
}
