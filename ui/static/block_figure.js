// One block of a quantized tensor: its numbers, the levels that its scale gives, and what rounding does. ui/pages/inspect/panel.py sends it.
const SVG = "http://www.w3.org/2000/svg";
const [EDGE, TOP, BOTTOM, HEIGHT, CURVE] = [10, 20, 102, 140, 70]; // of the drawings, in pixels; EDGE is half the slider's thumb
const [LEAST, MOST] = [0.3, 1.3]; // ends of the slider
const { create, fillIn } = window.ggufChat;
const figure = element.querySelector(".block-figure");
const part = (name) => figure.querySelector(name);
const [levels, curve, slider] = [".block-levels", ".block-curve", "input"].map(part);
let [at, width, stored] = [0, 720, true]; // the block shown, the drawings' width, and whether its scale is the stored one

const draw = (parent, name, attributes, title) => {
  const shape = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  if (title) shape.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
  parent.append(shape);
};
const short = (value) => new Intl.NumberFormat(props.value.language, { maximumSignificantDigits: 3 }).format(value);

/** The scale with which the largest number just fits: the unit of the slider. */
const widest = ({ before }) => {
  const { symmetric, codes } = props.value;
  return symmetric ? Math.max(...before.map(Math.abs)) / (codes / 2) : (Math.max(...before) - Math.min(...before)) / (codes - 1);
};

/** Round a block's numbers with a scale, in the middle of their range if the type is asymmetric. */
const rounded = (block, step) => {
  const { symmetric, codes } = props.value;
  const middle = (Math.max(...block.before) + Math.min(...block.before)) / 2;
  // The side with one level more belongs to the largest number, as in Q4_0.
  const sign = symmetric && Math.max(...block.before) > -Math.min(...block.before) ? -1 : 1;
  const unit = sign * step;
  return onGrid(block, unit, symmetric ? (-codes / 2) * unit : middle - ((codes - 1) / 2) * unit);
};
const onGrid = (block, step, minimum) => {
  const last = props.value.codes - 1;
  const exact = block.before.map((value) => (value - minimum) / step);
  const codes = exact.map((value) => Math.min(last, Math.max(0, Math.round(value))));
  const clipped = exact.filter((value) => value < -0.5 || value > last + 0.5).length;
  return { step, minimum, codes, clipped, after: codes.map((code) => code * step + minimum) };
};
const asStored = (block) => {
  const { step, minimum, after } = block;
  return { step, minimum, clipped: 0, codes: after.map((value) => Math.round((value - minimum) / step)), after };
};
const errorOf = (block, after) => Math.sqrt(block.before.reduce((sum, value, n) => sum + (value - after[n]) ** 2, 0) / after.length);

const drawLevels = (block, { step, minimum, codes, after }) => {
  const { words, codes: count } = props.value;
  const edges = [...block.before, ...after, minimum, minimum + step * (count - 1), 0];
  const [low, high] = [Math.min(...edges), Math.max(...edges)];
  const x = (value) => EDGE + ((value - low) / (high - low || 1)) * (width - 2 * EDGE);
  levels.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  levels.replaceChildren();
  if (Math.abs(x(step) - x(0)) < 4) draw(levels, "rect", { class: "level", x: EDGE, y: BOTTOM - 8, width: width - 2 * EDGE, height: 16 });
  else for (let code = 0; code < count; code++) draw(levels, "line", { class: "level", x1: x(minimum + step * code), x2: x(minimum + step * code), y1: BOTTOM - 8, y2: BOTTOM + 8 });
  draw(levels, "line", { class: "zero", x1: x(0), x2: x(0), y1: TOP - 16, y2: BOTTOM + 16 });
  draw(levels, "text", { x: x(0), y: BOTTOM + 32, "text-anchor": "middle" });
  levels.lastChild.textContent = "0";
  block.before.forEach((value, n) => {
    const title = `${words.before} ${short(value)} · ${words.code} ${codes[n]} · ${words.after} ${short(after[n])}`;
    draw(levels, "line", { class: "moved", x1: x(value), y1: TOP, x2: x(after[n]), y2: BOTTOM }, title);
    draw(levels, "circle", { class: "before", cx: x(value), cy: TOP, r: 4.5 }, title);
    draw(levels, "circle", { class: "after", cx: x(after[n]), cy: BOTTOM, r: 4.5 }, title);
  });
};

const drawCurve = (block, share) => {
  const shares = Array.from({ length: 101 }, (_, n) => LEAST + (n * (MOST - LEAST)) / 100);
  const errors = shares.map((one) => errorOf(block, rounded(block, one * widest(block)).after));
  const most = Math.max(...errors) || 1;
  const x = (one) => EDGE + ((one - LEAST) / (MOST - LEAST)) * (width - 2 * EDGE);
  const y = (error) => CURVE - 4 - (error / most) * (CURVE - 12);
  curve.setAttribute("viewBox", `0 0 ${width} ${CURVE}`);
  curve.replaceChildren();
  draw(curve, "polyline", { points: shares.map((one, n) => `${x(one)},${y(errors[n])}`).join(" ") });
  draw(curve, "line", { class: "chosen", x1: x(share), x2: x(share), y1: 0, y2: CURVE });
  return shares[errors.indexOf(Math.min(...errors))];
};

const paragraph = (text) => {
  const [, head, rest] = text.match(/^\*\*(.+?)\*\*(.*)$/s) ?? [null, "", text];
  return create("p", {}, create("b", {}, head), rest);
};

/** Show the block as it is stored, or with the scale of the slider. */
const show = (asItIs) => {
  stored = asItIs;
  const { blocks, words, symmetric, codes, type } = props.value;
  const block = blocks[at], unit = widest(block);
  const share = stored ? Math.abs(block.step) / (unit || 1) : Number(slider.value);
  const grid = stored ? asStored(block) : rounded(block, share * unit);
  drawLevels(block, grid);
  const best = drawCurve(block, share);
  slider.value = share;
  slider.setAttribute("aria-valuetext", short(Math.abs(grid.step)));
  part(".block-pick span").textContent = fillIn(words.number, { number: at + 1, count: blocks.length });
  const clipped = grid.clipped ? ` · ${fillIn(words.clipped, { count: grid.clipped })}` : "";
  part(".block-told").textContent = `${words.scale} ${short(Math.abs(grid.step))} · ${words.error} ${short(errorOf(block, grid.after))}${clipped}`;
  levels.setAttribute("aria-label", `${part(".block-pick span").textContent}: ${part(".block-told").textContent}`);
  const zero = -grid.minimum / grid.step;
  const whole = Math.abs(zero - Math.round(zero)) < 1e-3;
  const values = { count: block.before.length, step: short(Math.abs(grid.step)), last: codes - 1, zero: short(zero) };
  const taught = ["teach_scale", whole ? "teach_zero" : "teach_zero_between", symmetric ? "teach_symmetric" : "teach_asymmetric", "teach_calibration"];
  part(".block-teach").replaceChildren(...taught.map((name) => paragraph(fillIn(words[name], values))));
  const choice = (name, act) => create("button", { type: "button", class: "chip", onclick: act }, fillIn(words[name], { type }));
  const slide = (to) => () => {
    slider.value = to;
    show(false);
  };
  if (part(".block-choices").childElementCount) return;
  part(".block-choices").append(choice("stored", () => show(true)), choice("largest", slide(1)), choice("least", () => slide(drawCurve(blocks[at], 1))()));
};

const turn = (by) => () => {
  at = (at + by + props.value.blocks.length) % props.value.blocks.length;
  show(true);
};
part(".earlier").addEventListener("click", turn(-1));
part(".later").addEventListener("click", turn(1));
slider.addEventListener("input", () => show(false));

const update = () => {
  figure.hidden = !props.value;
  if (!props.value) return;
  const { words, type } = props.value;
  at = 0;
  part("h2").textContent = `${words.title} · ${type}`;
  part("label span").textContent = words.choose;
  part(".earlier").setAttribute("aria-label", words.earlier);
  part(".later").setAttribute("aria-label", words.later);
  part(".block-choices").replaceChildren();
  show(true);
};
new ResizeObserver(([{ contentRect }]) => {
  if (!props.value || !contentRect.width || contentRect.width === width) return;
  width = contentRect.width;
  show(stored);
}).observe(figure);
watch("value", update);
update();
