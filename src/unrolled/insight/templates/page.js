// The switches of every page: language, large text, dark mode. They are kept for the next page
// where the browser lets a file keep anything. A script that draws listens for "unrolled:change".
(() => {
  "use strict";
  const root = document.documentElement;
  const saved = (name) => {
    try { return localStorage.getItem("unrolled." + name); } catch { return null; }
  };
  const save = (name, value) => {
    try { localStorage.setItem("unrolled." + name, value); } catch { /* for this page alone */ }
  };
  const state = {
    lang: root.dataset.lang === "auto"
      ? saved("lang") || (/^ko\b/i.test(navigator.language) ? "ko" : "en")
      : root.lang,
    size: saved("size") || "normal",
    theme: saved("theme")
      || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"),
  };
  const apply = () => {
    root.lang = state.lang;
    root.dataset.size = state.size;
    root.dataset.theme = state.theme;
  };
  const show = () => {
    for (const button of document.querySelectorAll("button[data-set]"))
      button.setAttribute("aria-pressed", String(state[button.dataset.set] === button.dataset.value));
    for (const element of document.querySelectorAll("[data-w]"))
      element.setAttribute(element.dataset.w, element.dataset[state.lang]);
  };
  const choose = (button) => {
    const { set, value, other } = button.dataset;
    state[set] = other && state[set] === value ? other : value;
    save(set, state[set]);
    apply();
    show();
    document.dispatchEvent(new CustomEvent("unrolled:change", { detail: { ...state } }));
  };
  root.classList.add("scripted");
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    show();
    for (const button of document.querySelectorAll("button[data-set]"))
      button.addEventListener("click", () => choose(button));
  });
})();
