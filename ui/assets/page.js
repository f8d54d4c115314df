// What the page does without asking the server: wait for a slider to rest, one shortcut, and the
// buttons and links that stand in texts.
(() => {
  const RESTS_AFTER_MS = 150;
  let timer = 0;

  const click = (id) => document.getElementById(id)?.click();
  const hasPictures = () => document.querySelector("#chats-board .frame img") !== null;

  window.chats = {
    live() {
      if (!hasPictures()) return;
      clearTimeout(timer);
      timer = setTimeout(() => click("chats-live"), RESTS_AFTER_MS);
    },
  };

  const openTab = (name) =>
    [...document.querySelectorAll("#chats-tabs :is(button[role=tab], .overflow-dropdown button)")]
      .find((tab) => tab.textContent.trim() === name)
      ?.click();

  document.addEventListener("click", (event) => {
    const asked = event.target instanceof Element && event.target.closest("[data-reset],[data-open-tab],[data-click]");
    if (!asked) return;
    event.preventDefault();
    if (asked.dataset.openTab) openTab(asked.dataset.openTab);
    if (asked.dataset.click) click(asked.dataset.click);
    if (asked.dataset.reset) {
      window.chats.resetting = asked.dataset.reset;
      click("train-reset-one");
    }
  });

  document.addEventListener("keydown", (event) => {
    const inPrompt = event.target instanceof Element && event.target.closest("#chats-prompt");
    if (inPrompt && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      click("chats-generate");
    }
  });
})();
