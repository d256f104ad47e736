// The surrounding TensorBoard: its theme, its reloads, its address. The page also works without it.

function parentDocument() {
  try {
    return window.parent.document;
  } catch {
    return document; // the surrounding frame is foreign
  }
}

export function followTheme() {
  const outside = parentDocument();
  const apply = () => {
    const dark = outside.body.classList.contains("dark-mode");
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    window.dispatchEvent(new Event("themechange"));
  };
  new MutationObserver(apply).observe(outside.body, { attributeFilter: ["class"] });
  apply();
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
  if (bar.location.hash.slice(1) !== hash)
    bar.history.replaceState(bar.history.state, "", `#${hash}`);
}

export function onHashChange(callback) {
  addressBar().addEventListener("hashchange", callback);
}

// False while another tab of TensorBoard is open: the frame then has no size.
export function isShown() {
  return document.visibilityState === "visible" && window.innerWidth > 0;
}
