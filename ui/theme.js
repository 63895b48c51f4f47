// The theme that was chosen, before anything is painted.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("snowpit-theme");
  } catch {
    // No storage: automatic.
  }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
