// The Alpha lab: which cell was pressed, and files that were made on request.
(() => {
  let pressed = null;

  window.chats.lab = {
    picked: (cell) => pressed ?? cell,
    save: () => setTimeout(() => document.querySelector("#lab-sent")?.click(), 50),
  };

  document.addEventListener("click", (event) => {
    const cell = event.target instanceof Element && event.target.closest("[data-lab-cell]");
    if (!cell) return;
    pressed = Number(cell.dataset.labCell);
    document.getElementById("lab-pick")?.click();
  });
})();
