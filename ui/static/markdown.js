// Markdown as safe elements: ggufChat.fill(container, text, done). Raw HTML stays text, an image becomes a link, and each
// block passes DOMPurify. KaTeX draws the formulas and highlight.js the code; each is loaded when first needed.
(() => {
  const ggufChat = (window.ggufChat ??= {});
  const ENVIRONMENTS = /^\\begin\{((?:align|alignat|gather|equation|multline|eqnarray|CD)\*?|aligned|gathered|cases|array|[pbBvV]?matrix)\}/;
  const SUM = /^\d[\d.,]*\s[^=+*/^_\\<>-]*$/; // "5 and 10", of "$5 and 10$"
  // Pandoc's rule spares prices: no space inside the dollars and no digit after them.
  const DOLLARS = /\$(?![\s$])((?:\\[^]|[^$\\`\n]|\n(?!\s*\n))+?)(?<![\s\\])\$(?![\w$])/y;
  const PAIRS = { "$$": "$$", "\\[": "\\]", "\\(": "\\)" };

  const md = window.markdownit({ html: false, linkify: true, breaks: true, typographer: false });
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  md.validateLink = (url) => /^(https?:|mailto:)/i.test(url.trim());

  // A search for a missing end goes to the end of the text: it is made once for each delimiter and text.
  const findEnd = (state, end, from) => {
    const missing = ((state.env.missing ??= new Map()), state.env.missing.get(state.src) ?? new Set());
    if (missing.has(end)) return -1;
    const at = state.src.indexOf(end, from);
    if (at < 0) state.env.missing.set(state.src, missing.add(end));
    return at;
  };
  const push = (state, tag, tex, display) => {
    const token = state.push("math", tag, 0);
    token.content = tex;
    token.meta = { display };
  };
  md.inline.ruler.before("escape", "math", (state, silent) => {
    const { src, pos } = state;
    const first = src[pos];
    if (first !== "$" && first !== "\\") return false;
    const end = PAIRS[src.slice(pos, pos + 2)];
    let [tex, after] = [null, 0];
    if (end) {
      const at = findEnd(state, end, pos + 2);
      if (at > pos + 2) [tex, after] = [src.slice(pos + 2, at), at + 2];
    } else if (first === "$" && !/[\\$\w]/.test(src[pos - 1] ?? "")) {
      DOLLARS.lastIndex = pos;
      const found = DOLLARS.exec(src);
      if (found && !SUM.test(found[1])) [tex, after] = [found[1], DOLLARS.lastIndex];
    }
    if (tex === null || after > state.posMax || /\n[ \t]*\n/.test(tex)) return false;
    if (!silent) push(state, "span", tex, end === "$$" || end === "\\]");
    state.pos = after;
    return true;
  });
  // A formula of several lines, in which "=" or "-" at a line's start would be a heading or a list.
  md.block.ruler.before("fence", "math", (state, first, last, silent) => {
    const line = (n) => state.src.slice(state.bMarks[n] + state.tShift[n], state.eMarks[n]);
    const begin = line(first);
    const environment = ENVIRONMENTS.exec(begin)?.[1];
    const end = environment ? `\\end{${environment}}` : { "$$": "$$", "\\[": "\\]" }[begin.slice(0, 2)];
    if (!end || state.sCount[first] - state.blkIndent >= 4) return false;
    const searched = (state.env.searched ??= {}); // up to which line an end was missed: no line is read twice for it
    if (first < (searched[end] ?? 0)) return false;
    const lines = [];
    for (let n = first; n < last; n++) {
      const text = line(n);
      const at = text.indexOf(end, n === first && !environment ? 2 : 0);
      if (at < 0 && (text.trim() || n === first) && n + 1 < last) {
        lines.push(text);
        continue;
      }
      if (at < 0) searched[end] = n;
      if (at < 0) return false;
      if (/[^\s.,;:]/.test(text.slice(at + end.length))) return false;
      if (silent) return true;
      lines.push(text.slice(0, environment ? at + end.length : at));
      push(state, "div", environment ? lines.join("\n") : lines.join("\n").slice(2), true);
      state.line = n + 1;
      return true;
    }
    return false;
  }, { alt: ["paragraph", "blockquote", "list"] });

  const escape = md.utils.escapeHtml;
  md.renderer.rules.math = (tokens, n) => {
    const { tag, content, meta } = tokens[n];
    return `<${tag} class="math${meta.display ? " display" : ""}">${escape(content)}</${tag}>`;
  };
  md.renderer.rules.image = (tokens, n) => {
    const source = tokens[n].attrGet("src");
    return `<a href="${escape(source)}">${escape(tokens[n].content || source)}</a>`;
  };
  const aligned = (tokens, n, options, env, self) => {
    const token = tokens[n], style = token.attrGet("style");
    if (style) token.attrs = [["align", style.replace("text-align:", "")]];
    return self.renderToken(tokens, n, options);
  };
  md.renderer.rules.th_open = md.renderer.rules.td_open = aligned;
  md.core.ruler.after("inline", "tasks", ({ tokens }) => {
    tokens.forEach((token, n) => {
      const text = token.children?.[0];
      const mark = tokens[n - 2]?.type === "list_item_open" && text?.type === "text" && /^\[([ xX])\]\s/.exec(text.content);
      if (!mark) return;
      text.content = text.content.slice(mark[0].length);
      tokens[n - 2].attrJoin("class", mark[1] === " " ? "task" : "task done");
    });
  });

  const PURE = {
    ALLOWED_TAGS: "p a b strong em s del ul ol li code pre blockquote table thead tbody tr th td h1 h2 h3 h4 h5 h6 br hr span div".split(" "),
    ALLOWED_ATTR: ["class", "href", "title", "align", "start"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  };

  /** Return the HTML of each top-level block. */
  const blocksOf = (text) => {
    const env = {}, tokens = md.parse(text, env), blocks = [];
    let begin = 0, depth = 0;
    tokens.forEach((token, n) => {
      depth += token.nesting;
      if (depth > 0) return;
      blocks.push(md.renderer.render(tokens.slice(begin, n + 1), md.options, env));
      begin = n + 1;
    });
    return blocks;
  };

  const loads = {};
  const load = (name) =>
    (loads[name] ??= new Promise((resolve, reject) => {
      const { script, style } = ggufChat.libraries[name];
      if (style) document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: style }));
      document.head.append(Object.assign(document.createElement("script"), { src: script, onload: resolve, onerror: reject }));
    }));

  // What scrolls sideways can be reached by keyboard, which needs a Tab stop.
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth + 1) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });

  const withClass = (tag, name, ...children) => {
    const element = Object.assign(document.createElement(tag), { className: name });
    element.append(...children);
    return element;
  };
  const build = (html) => {
    const fragment = window.DOMPurify.sanitize(html, PURE);
    const block = fragment.children.length === 1 ? fragment.firstElementChild : withClass("div", "", ...fragment.childNodes);
    for (const link of [...(block.matches("a") ? [block] : []), ...block.querySelectorAll("a")]) {
      if (!/^(https?|mailto):$/.test(link.protocol)) link.removeAttribute("href");
      Object.assign(link, { target: "_blank", rel: "noopener noreferrer nofollow" });
    }
    const all = (selector) => [...(block.matches(selector) ? [block] : []), ...block.querySelectorAll(selector)];
    all("p, ul, ol, table, blockquote, h1, h2, h3, h4, h5, h6").forEach((part) => (part.dir = "auto"));
    all("th, td").forEach((cell) => cell.classList.toggle("long", cell.textContent.length > 24));
    const frame = withClass("div", "block", block);
    frame.querySelectorAll("table").forEach((table) => {
      const wide = withClass("div", "table");
      table.replaceWith(wide);
      wide.append(table);
      widths.observe(wide);
    });
    frame.querySelectorAll("pre").forEach((pre) => {
      const language = pre.querySelector("code")?.className.match(/language-(\S+)/)?.[1] ?? "";
      const copy = withClass("button", "copy-code");
      Object.assign(copy, { type: "button", title: ggufChat.words?.copy ?? "" });
      copy.setAttribute("aria-label", copy.title);
      const box = withClass("div", "code", withClass("div", "code-head", withClass("span", "", language.slice(0, 40)), copy));
      pre.replaceWith(box);
      box.append(pre);
      widths.observe(pre);
    });
    frame.querySelectorAll(".math.display").forEach((formula) => widths.observe(formula));
    return frame;
  };

  /** Draw the formulas and colour the code of a block that no longer changes. */
  const finish = (block) => {
    const formulas = block.querySelectorAll(".math:not(.drawn)");
    if (formulas.length) {
      load("katex").then(() => {
        for (const formula of formulas) {
          if (formula.classList.contains("drawn")) continue;
          const tex = formula.textContent;
          formula.classList.add("drawn");
          const displayMode = formula.classList.contains("display");
          window.katex.render(tex, formula, { displayMode, throwOnError: false, trust: false, strict: false, maxExpand: 500, maxSize: 20 });
        }
      }, () => {}); // the source stays
    }
    for (const code of block.querySelectorAll("pre code[class*=language-]")) {
      const language = code.className.match(/language-(\S+)/)[1].toLowerCase();
      if (code.textContent.length > 50_000) continue;
      load("highlight").then(() => {
        if (window.hljs.getLanguage(language) && !code.dataset.coloured) {
          code.dataset.coloured = "yes";
          code.innerHTML = window.hljs.highlight(code.textContent, { language, ignoreIllegals: true }).value;
        }
      }, () => {});
    }
  };

  /** Show a text in a container; of an earlier text only the blocks that differ are drawn anew. */
  ggufChat.fill = (container, text, done = true) => {
    const blocks = blocksOf(text), shown = (container.shown ??= []);
    blocks.forEach((html, n) => {
      const settled = done || n < blocks.length - 1;
      let known = shown[n];
      if (known?.html !== html) {
        const element = build(html);
        if (known) known.element.replaceWith(element);
        else container.append(element);
        known = shown[n] = { html, element, settled: false };
      }
      if (settled && !known.settled) {
        known.settled = true;
        finish(known.element);
      }
    });
    shown.splice(blocks.length).forEach(({ element }) => element.remove());
  };

  /** Copy a text; resolves to whether that worked. */
  ggufChat.copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text, style: "position:fixed;opacity:0" });
      document.body.append(area); // without https there is no clipboard
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest?.(".copy-code");
    if (!button) return;
    const code = button.closest(".code").querySelector("pre").textContent.replace(/\n$/, "");
    if (await ggufChat.copy(code)) {
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1500);
    }
  });
})();
