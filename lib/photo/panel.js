// The browser's side of `panel.Panel`: shows its traits, and sends what a person does as messages.

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

const OPTIONS = { // argument of `Colorizer.__call__`: label, lowest, highest, step, and what it does
  seed: ["seed", 0, 1e9, 1, "another number gives other colours"],
  saturation: ["saturation", 0, 5, 0.1, "0 is gray, 1 as the model says, 2 twice as much"],
  num_inference_steps: ["steps", 1, 1000, 1, "sampling steps: more take longer and give stronger colours"],
  guidance_scale: ["guidance", 0, 100, 0.5, "above 1, the prompt counts more, and a step takes twice as long"],
  controlnet_conditioning_scale: ["strength", 0, 10, 0.1, "how much the photo's shapes count"],
  bind: ["each colour only on its object", 0, 1, 1, "as far as the object is found"],
};
const EXAMPLES = [ // for photos that come without descriptions
  "a red tram in a gray street, pale blue sky",
  "a woman in a dark blue dress, brown hair, green garden",
  "a green meadow, brown trees, white clouds in a blue sky",
];

function render({ model, el }) {
  const get = (name) => model.get(name);
  const send = (action, content = {}, buffers = []) => model.send({ action, ...content }, undefined, buffers);

  const choose = make("select", { ariaLabel: "photo", onchange: () => send("choose", { name: choose.value }) });
  const file = make("input", { type: "file", accept: "image/*,.heic,.heif,.jp2,.tif,.tiff", hidden: true });
  const upload = make("button", { textContent: "Upload…", onclick: () => file.click() });
  file.onchange = async () => {
    const [chosen] = file.files;
    if (chosen) send("upload", { name: chosen.name }, [await chosen.arrayBuffer()]);
    file.value = ""; // the same file can come again
  };

  const prompt = make("textarea", {
    rows: 2,
    ariaLabel: "prompt",
    placeholder: "What is in the photo, with its colours: a red tram in a gray street, pale blue sky",
  });
  const start = make("button", { textContent: "Colorize", className: "start" });
  const cancel = make("button", { textContent: "Cancel", onclick: () => send("cancel") });
  const bar = make("progress", {});
  const examples = make("div", { className: "examples" });

  const photo = make("img", { alt: "the photo in gray", draggable: false });
  const overlay = make("div", { className: "overlay" });
  const fields = make("div", { className: "fields" });
  const before = make("img", { alt: "before", draggable: false });
  const after = make("img", { alt: "after", className: "after", draggable: false });
  const divider = make("input", { type: "range", min: 0, max: 100, step: 0.5, ariaLabel: "before and after" });
  const compare = make("div", { className: "picture compare" }, before, after, make("div", { className: "line" }), divider);
  const waiting = make("div", { className: "waiting", textContent: "The picture appears here: press Colorize." });
  const caption = make("div", { className: "caption" });
  const history = make("div", { className: "history", ariaLabel: "history" });
  const options = make("div", { className: "options" });
  const message = make("div", { className: "message", role: "status" });

  let boxes = []; // { box: [left, top, right, bottom] in fractions, color }
  const inputs = {}; // of the options

  el.classList.add("photo-panel");
  el.append(
    make("div", { className: "row" }, choose, upload, file, message),
    make("div", { className: "row" }, prompt, make("div", { className: "buttons" }, start, cancel, bar)),
    examples,
    make("div", { className: "pictures" },
      make("figure", {}, make("div", { className: "picture" }, photo, overlay), fields),
      make("figure", {}, compare, waiting, history, caption)),
    make("details", {}, make("summary", { textContent: "Options" }), options),
    make("div", { className: "hint" }),
  );
  el.lastChild.textContent = `${get("expect")} If the panel looks dead, run its cell again (Shift+Enter).`;

  for (const [name, value] of Object.entries(get("options"))) {
    const [label, min, max, step, help] = OPTIONS[name];
    const kind = typeof value === "boolean" ? { type: "checkbox", checked: value } : { type: "number", min, max, step, value };
    inputs[name] = make("input", { ...kind, ariaLabel: label });
    options.append(make("label", { title: help }, `${label} `, inputs[name]));
  }

  // Colours in words, and as swatches
  const hexOf = (words) => {
    const parts = words.trim().toLowerCase().split(/\s+/);
    for (let k = 0; k < parts.length; k++) {
      const hex = get("colors")[parts.slice(k).join(" ")];
      if (hex) return hex;
    }
    return null;
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const nameOf = (hex) => {
    const far = (other) => rgb(other).reduce((sum, value, k) => sum + (value - rgb(hex)[k]) ** 2, 0);
    return Object.entries(get("colors")).reduce((best, next) => (far(next[1]) < far(best[1]) ? next : best))[0];
  };

  // Boxes
  const drawBoxes = () => {
    overlay.replaceChildren(...boxes.map(({ box: [left, top, right, bottom], color }, k) => {
      const shown = make("div", { className: "box", textContent: k + 1 });
      const [x, y, width, height] = [left, top, right - left, bottom - top].map((side) => `${100 * side}%`);
      Object.assign(shown.style, { left: x, top: y, width, height, borderColor: hexOf(color) ?? "#ff7f0e" });
      return shown;
    }));
  };
  const drawFields = () => {
    const hint = "To colour one object, draw a box around it on the photo and type its colour.";
    fields.replaceChildren(...boxes.map((item, k) => {
      const swatch = make("input", { type: "color", ariaLabel: `swatch ${k + 1}` });
      const words = make("input", { type: "text", value: item.color, placeholder: "e.g. dark red", ariaLabel: `box ${k + 1}` });
      const follow = () => {
        item.color = words.value;
        swatch.value = hexOf(item.color) ?? "#808080";
        swatch.classList.toggle("unknown", !hexOf(item.color));
        drawBoxes();
      };
      words.oninput = follow;
      swatch.oninput = () => { words.value = nameOf(swatch.value); follow(); };
      const remove = make("button", { textContent: "×", title: "remove the box" });
      remove.onclick = () => { boxes.splice(k, 1); drawFields(); };
      follow();
      return make("label", {}, `${k + 1} `, swatch, words, remove);
    }), ...(boxes.length < 2 ? [make("div", { className: "hint", textContent: hint })] : []));
    drawBoxes();
  };
  overlay.onpointerdown = (down) => {
    const at = (event) => {
      const place = overlay.getBoundingClientRect();
      const inside = (value) => Math.round(1e4 * Math.min(1, Math.max(0, value))) / 1e4;
      return [inside((event.clientX - place.left) / place.width), inside((event.clientY - place.top) / place.height)];
    };
    const [x, y] = at(down);
    const item = { box: [x, y, x, y], color: "" };
    overlay.setPointerCapture(down.pointerId);
    boxes.push(item);
    overlay.onpointermove = (event) => {
      const [u, v] = at(event);
      item.box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
      drawBoxes();
    };
    overlay.onpointerup = overlay.onpointercancel = () => {
      overlay.onpointermove = overlay.onpointerup = overlay.onpointercancel = null;
      const [left, top, right, bottom] = item.box;
      if (Math.min(right - left, bottom - top) < 0.02) boxes.pop(); // a slip of the mouse
      drawFields();
      if (boxes.includes(item)) fields.querySelectorAll("input[type=text]")[boxes.length - 1].focus({ preventScroll: true });
    };
    down.preventDefault();
  };

  // Settings
  const settings = () => ({
    prompt: prompt.value.trim(),
    colors: boxes.map(({ box, color }) => [box, color.trim()]),
    ...Object.fromEntries(Object.entries(inputs).map(([name, input]) =>
      [name, input.type === "checkbox" ? input.checked : Number(input.value)])),
  });
  const restore = (saved) => {
    prompt.value = saved.prompt;
    boxes = saved.colors.map(([box, color]) => ({ box, color }));
    for (const [name, input] of Object.entries(inputs)) {
      if (input.type === "checkbox") input.checked = saved[name];
      else input.value = saved[name];
    }
    drawFields();
  };
  start.onclick = () => {
    const wrong = Object.values(inputs).find((input) => !input.checkValidity());
    const empty = boxes.findIndex(({ color }) => !color.trim());
    if (wrong) wrong.reportValidity();
    else if (empty >= 0) message.textContent = `box ${empty + 1} has no colour: type one, such as "dark red", or remove it`;
    else send("colorize", { settings: settings() });
  };
  divider.oninput = () => compare.style.setProperty("--x", `${divider.value}%`);

  // Traits
  const showNames = () => {
    choose.replaceChildren(...get("names").map((name) => make("option", { value: name, textContent: name })));
    choose.value = get("photo").name;
  };
  const showPhoto = () => {
    const { before: gray, descriptions = [] } = get("photo");
    photo.src = before.src = gray ?? "";
    [boxes, prompt.value] = [[], descriptions[0] ?? ""];
    examples.replaceChildren("try: ", ...(descriptions.length ? descriptions : EXAMPLES).map((text) =>
      make("button", { textContent: text, title: text, onclick: () => { prompt.value = text; } })));
    showNames();
    drawFields();
    showResults();
  };
  const showResults = () => {
    const results = get("history");
    const result = results[get("shown")];
    compare.hidden = !result;
    waiting.hidden = Boolean(result);
    history.replaceChildren(...results.map((item, k) => {
      const words = [item.settings.prompt, ...item.settings.colors.map(([, color]) => color), ...item.caption].join("; ");
      const thumb = make("button", { title: words, className: k === get("shown") ? "current" : "" });
      thumb.append(make("img", { src: item.after, alt: words }));
      thumb.onclick = () => { model.set("shown", k); model.save_changes(); restore(item.settings); };
      return thumb;
    }));
    caption.replaceChildren();
    if (!result) return;
    after.src = result.after;
    [divider.value] = [35];
    divider.oninput();
    const { prompt: words, colors } = result.settings;
    const colored = colors.map(([, color], k) => `box ${k + 1}: ${color}`);
    caption.append(make("b", { textContent: [words, ...colored].join(" + ") }), ...result.caption.map((line) => make("div", { textContent: line })));
    if (result.file) caption.append(make("button", { textContent: `Download ${result.file}`, onclick: () => send("download", { file: result.file }) }));
  };
  const showProgress = () => {
    const [done, total] = get("progress");
    start.disabled = total > 0;
    cancel.hidden = bar.hidden = total === 0;
    [bar.max, bar.value] = [total || 1, done];
    bar.title = `${done} of ${total} steps`;
  };
  const showMessage = () => { message.textContent = get("message"); };

  model.on("change:names", showNames);
  model.on("change:photo", showPhoto);
  model.on("change:history change:shown", showResults);
  model.on("change:progress", showProgress);
  model.on("change:message", showMessage);
  model.on("msg:custom", ({ action, file: name }, [content]) => {
    if (action === "chosen") showNames();
    if (action === "save") {
      const link = make("a", { download: name, href: URL.createObjectURL(new Blob([content], { type: "image/png" })) });
      link.click();
      URL.revokeObjectURL(link.href);
    }
  });
  showPhoto();
  showProgress();
  showMessage();
  if (!model.seen) setTimeout(() => el.scrollIntoView({ block: "start" }), 300); // with room for the first result
  model.seen = true;
  if (get("history").length) restore(get("history")[get("shown")].settings);
}

export default { render };
