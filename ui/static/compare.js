// Draws the answers of a comparison as Markdown: Gradio sets the columns anew, with the texts as attributes.
const draw = () => {
  if (!window.ggufChat?.fill) return window.addEventListener("gguf-chat", draw, { once: true });
  for (const box of element.querySelectorAll(".said")) {
    if (!box.firstChild) box.shown = []; // Gradio has emptied it
    window.ggufChat.fill(box, box.dataset.text, element.querySelector(".busy") === null);
  }
};
watch("value", draw);
draw();
