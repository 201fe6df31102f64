// What the scripts of the pages share: elements, texts with gaps, downloads. It comes first, in every page's head.
(() => {
  const ggufChat = (window.ggufChat ??= {});

  /** Make an element: attributes, listeners (onclick ...), and children, of which strings become text. */
  ggufChat.create = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child instanceof Node || (child && typeof child === "string")));
    return element;
  };

  /** Fill the gaps of a text: `{name}`. */
  ggufChat.fillIn = (text, values) => (text ?? "").replace(/\{(\w+)\}/g, (gap, name) => values[name] ?? gap);

  /** Let the browser download a file that a page has made. */
  ggufChat.download = ({ name, type, content }) => {
    const href = URL.createObjectURL(new Blob([content], { type }));
    ggufChat.create("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  };
})();
