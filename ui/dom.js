// Elements out of plain values, and the page made to look like them.
//
// Text only ever becomes a text node or an attribute: nothing from outside can
// be markup. What is already on the page and alike stays the same element, so
// that focus, selection and scrolling survive an update.

const SVG = "http://www.w3.org/2000/svg";

/** Attributes that belong to who looks, not to what is shown. */
const OWN = new Set(["open", "data-at"]);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** An HTML element. Children: elements, text, lists of them, or nothing. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);

const alike = (a, b) =>
  a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

/** Makes `parent` have these children. */
export function put(parent, children) {
  const wanted = document.createDocumentFragment();
  append(wanted, [children]);
  reconcile(parent, wanted);
}

function reconcile(parent, wanted) {
  const known = new Map();
  for (const child of parent.childNodes) {
    const key = keyOf(child);
    if (key !== null) known.set(key, child);
  }
  let at = parent.firstChild;
  for (const node of [...wanted.childNodes]) {
    const key = keyOf(node);
    while (key === null && at && keyOf(at) !== null && !stillWanted(at, wanted)) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    const old = key === null ? at : known.get(key);
    if (!old || !alike(old, node)) {
      parent.insertBefore(node, at);
      continue;
    }
    if (old === at) at = at.nextSibling;
    else parent.insertBefore(old, at);
    sync(old, node);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function stillWanted(node, wanted) {
  const key = keyOf(node);
  for (const other of wanted.childNodes) if (keyOf(other) === key) return true;
  return false;
}

function sync(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (!OWN.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!OWN.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  // Somebody else draws in there.
  if (!fresh.hasAttribute("data-foreign")) reconcile(old, fresh);
}
