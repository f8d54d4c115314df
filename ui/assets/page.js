// What the page does without asking the server: wait for a slider to rest, and one shortcut.
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

  document.addEventListener("keydown", (event) => {
    const inPrompt = event.target instanceof Element && event.target.closest("#chats-prompt");
    if (inPrompt && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      click("chats-generate");
    }
  });
})();
