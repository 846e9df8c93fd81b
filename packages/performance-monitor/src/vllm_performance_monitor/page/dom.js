// Making elements. Text becomes text and never markup, whatever a model is called.

import { NOTHING } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

/** An HTML element; attributes that are null or false are left out, true is an empty one. */
export const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const shape = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((one) => one !== null && one !== undefined && one !== ""));
  return element;
}

/** The dash is read aloud as what it means. */
export const missing = () => el("span", { role: "img", "aria-label": "not measured" }, NOTHING);

/** A number in a table. */
export const cell = (text) => el("td", { class: "number" }, text === NOTHING ? missing() : text);

/** Make `children` the children of `parent`, and leave those alone that are there already: what somebody selects or
 * has a screen reader at is not taken away from under them. */
export function show(parent, children) {
  const wanted = children.filter((one) => one !== null);
  wanted.forEach((one, place) => {
    const there = parent.childNodes[place];
    if (there === undefined) parent.append(one);
    else if (!there.isEqualNode(one)) there.replaceWith(one);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

/** Have `text` read aloud, once. */
export function announce(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** Show `text`, or nothing where there is none; what has not changed is not announced anew. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = text === "";
}
