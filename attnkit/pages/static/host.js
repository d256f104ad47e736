// The surrounding TensorBoard: its theme, its reloads, its address. The page also works without it.

function parentDocument() {
  try {
    return window.parent.document;
  } catch {
    return document; // the surrounding frame has another origin
  }
}

// Follows the theme of TensorBoard, or else of the system.
export function followTheme() {
  const outside = parentDocument();
  if (outside === document) {
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const apply = () => setTheme(system.matches);
    system.addEventListener("change", apply);
    apply();
    return;
  }
  const apply = () => setTheme(outside.body.classList.contains("dark-mode"));
  new MutationObserver(apply).observe(outside.body, { attributeFilter: ["class"] });
  apply();
}

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  window.dispatchEvent(new Event("themechange"));
}

// Calls back whenever TensorBoard reloads, manually or automatically.
export function onReload(callback) {
  if (window.parent === window) return;
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") callback();
    const reply = { type: message.type, id: message.id, payload: null, error: null, isReply: true };
    channel.port1.postMessage(JSON.stringify(reply));
  };
  window.parent.postMessage("experimental.bootstrap", window.location.origin, [channel.port2]);
}

function addressBar() {
  return parentDocument().defaultView ?? window;
}

export function readHash() {
  return addressBar().location.hash.slice(1);
}

export function writeHash(hash) {
  const bar = addressBar();
  if (bar.location.hash.slice(1) === hash) return;
  try {
    bar.history.replaceState(bar.history.state, "", `#${hash}`);
  } catch {
    // a page inside a notebook has no address
  }
}

// Follows a link inside TensorBoard, also to another tab.
export function goTo(hash) {
  addressBar().location.hash = hash;
}

export function onHashChange(callback) {
  addressBar().addEventListener("hashchange", callback);
}

// False while another tab of TensorBoard is open: the frame then has no size.
export function isShown() {
  return document.visibilityState === "visible" && window.innerWidth > 0;
}
