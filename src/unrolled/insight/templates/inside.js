// Draws what moves on the page: the unrolled graph, the cell of a step, the heads of attention.
(() => {
  "use strict";
  const { traces, pack } = JSON.parse(document.getElementById("inside").textContent);
  const words = JSON.parse(document.getElementById("words").textContent);
  const say = (key) => words[document.documentElement.lang]["inside.js_" + key] || key;
  const LINE = 72, GAP = 6, HEAD = 22, TOKEN = 26;
  const make = (tag, className, parent, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  // blanks and line ends by themselves, as signs
  const visible = (text) =>
    (/^ +$/.test(text) ? text.replace(/ /g, "␣") : text).replace(/\n/g, "⏎");
  const color = (name) => {
    const probe = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = probe;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  let palette;
  const repaint = () => {
    palette = { up: color("--s2"), down: color("--s1"), zero: color("--card"), ink: color("--ink"),
      accent: color("--accent"), soft: color("--soft") };
  };
  const css = (rgb, alpha = 1) => `rgba(${rgb[0]},${rgb[1]},${rgb[2]},${alpha})`;

  // an array of the page: its numbers are whole ones, scaled
  const reader = (stored) => (entry) => {
    const [rows, columns] = entry.shape.slice(-2);
    const get = (row, column) =>
      entry.low + entry.step * stored[entry.at + row * columns + column];
    return { rows, columns, get, low: entry.low, entry };
  };
  const unpack = async () => {
    const bytes = Uint8Array.from(atob(pack.gzip), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    return pack.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
  };

  // the shade of a value between -most and most, over the card; of a gate between 0 and 1
  const shade = (value, most, pixels, at, gate = false) => {
    const share = Math.max(-1, Math.min(1, value / most));
    const end = gate ? palette.accent : share < 0 ? palette.down : palette.up;
    const strength = gate ? Math.max(0, share) : Math.sqrt(Math.abs(share));
    for (let part = 0; part < 3; part++)
      pixels[at + part] = palette.zero[part] + (end[part] - palette.zero[part]) * strength;
    pixels[at + 3] = 255;
  };

  class Graph {
    constructor(section, trace, read) {
      this.section = section;
      this.trace = trace;
      this.step = -1;
      this.layers = trace.layers.map((layer) => ({
        ...layer,
        arrays: Object.fromEntries(
          Object.entries(layer.arrays).map(([name, entry]) => [name, read(entry)])),
      }));
      this.groups = ["input", "written"].filter(
        (over) => this.layers.some((layer) => layer.over === over));
      this.predictions = new Map(trace.predictions);
      this.layer = this.layers.findLast((layer) => layer.direction === "forward")
        || this.layers[0];
      this.unit = this.busiest(this.layer);
      this.over = this.layer ? this.layer.over : "input";
      this.box = section.querySelector(".graph");
      this.out = section.querySelector(".readout");
      if (!this.layer) return;
      this.box.hidden = this.out.hidden = false;
      section.querySelector(".opened").hidden = false;
      this.views = this.groups.map((over) => this.build(over));
      this.choose(this.layer, this.unit, this.layer.arrays.h.rows - 1);
    }
    busiest(layer) {
      if (!layer) return 0;
      const h = layer.arrays.h;
      let best = 0, most = -1;
      for (let unit = 0; unit < h.columns; unit++) {
        const stride = Math.max(1, Math.floor(h.rows / 500));
        let sum = 0, squares = 0, count = 0;
        for (let row = 0; row < h.rows; row += stride) {
          const value = h.get(row, unit);
          sum += value; squares += value * value; count++;
        }
        const variance = squares / count - (sum / count) ** 2;
        if (variance > most) { most = variance; best = unit; }
      }
      return best;
    }
    names(over) { return over === "written" ? this.trace.written : this.trace.tokens; }
    build(over) {
      const names = this.names(over);
      const layers = this.layers.filter((layer) => layer.over === over);
      const view = { over, layers, strips: [], labels: [] };
      view.left = make("div", "names", this.box);
      view.scroller = make("div", "scroller", this.box);
      view.scroller.tabIndex = 0;
      view.scroller.setAttribute("role", "group");
      view.track = make("div", "track", view.scroller);
      const longest = names.slice(0, 400).map((name) => [...name].reduce(
        (width, letter) => width + (letter.charCodeAt(0) > 0x10ff ? 15 : 8.5), 10));
      longest.sort((a, b) => a - b);
      view.cell = Math.round(Math.max(22, Math.min(
        names.length > 1000 ? 40 : 110, longest[Math.floor(longest.length * 0.9)] || 22)));
      // a short input fills the width there is
      const room = Math.floor(view.scroller.clientWidth / names.length);
      view.cell = Math.max(view.cell, Math.min(84, room));
      view.shown = over === this.trace.over;
      let top = TOKEN + (view.shown ? TOKEN : 0);
      if (view.shown) view.labels.push([TOKEN + 3, "next", ""]);
      for (const layer of layers) {
        view.labels.push([top + 3, layer, "layer"]);
        top += HEAD;
        view.strips.push({ layer, line: true, top, height: LINE });
        top += LINE + GAP;
        for (const name of ["h", "c", "input", "forget", "output", "reset", "update", "candidate"]) {
          const array = layer.arrays[name];
          if (!array) continue;
          const height = Math.max(40, Math.min(96, array.columns));
          view.labels.push([top + height / 2 - 8, name, ""]);
          const gate = !["h", "c", "candidate"].includes(name);
          const most = gate ? 1 : Math.max(1e-9, Math.abs(array.low),
            array.low + array.entry.step * (pack.bits === 16 ? 65534 : 254));
          view.strips.push({ layer, name, array, most, gate, top, height });
          top += height + GAP;
        }
      }
      view.height = top + 4;
      view.track.style.width = names.length * view.cell + "px";
      view.track.style.height = view.left.style.height = view.height + "px";
      view.canvas = make("canvas", "", view.track);
      view.texts = [];
      view.canvas.addEventListener("click", (event) => this.hit(view, event, true));
      view.canvas.addEventListener("mousemove", (event) => this.hit(view, event, false));
      view.scroller.addEventListener("scroll", () => this.later(view), { passive: true });
      view.scroller.addEventListener("keydown", (event) => this.key(view, event));
      new ResizeObserver(() => this.later(view)).observe(view.scroller);
      this.label(view);
      return view;
    }
    label(view) {
      view.left.replaceChildren();
      view.scroller.setAttribute("aria-label", say("graph"));
      for (const [top, what, className] of view.labels) {
        const text = typeof what === "string" ? say(what)
          : `${what.name}, ${say(what.direction)}`;
        make("span", className, view.left, text).style.top = top + "px";
      }
    }
    later(view) {
      if (view.waiting) return;
      view.waiting = true;
      requestAnimationFrame(() => { view.waiting = false; this.draw(view); });
    }
    draw(view) {
      const width = view.scroller.clientWidth;
      if (!width) return;
      const ratio = window.devicePixelRatio || 1;
      const canvas = view.canvas;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(view.height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(view.height * ratio);
        canvas.style.width = width + "px";
        canvas.style.height = view.height + "px";
      }
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, view.height);
      const offset = view.scroller.scrollLeft, cell = view.cell;
      const names = this.names(view.over);
      const first = Math.max(0, Math.floor(offset / cell));
      const end = Math.min(names.length, Math.ceil((offset + width) / cell));
      for (const strip of view.strips)
        strip.line ? this.line(context, strip, first, end, offset, view)
          : this.heat(context, strip, first, end, offset, view);
      if (view.over === this.over && this.step >= 0) {
        context.strokeStyle = css(palette.accent);
        context.lineWidth = 2;
        context.strokeRect(this.step * cell - offset + 1, TOKEN, cell - 2, view.height - TOKEN - 4);
      }
      this.write(view, names, first, end);
    }
    heat(context, strip, first, end, offset, view) {
      const { array, most, gate } = strip;
      const rows = array.columns, columns = Math.max(1, end - first);
      const image = new ImageData(columns, rows);
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < end - first; column++)
          shade(array.get(first + column, row), most, image.data, 4 * (row * columns + column), gate);
      const sheet = (strip.sheet ||= document.createElement("canvas"));
      sheet.width = columns;
      sheet.height = rows;
      sheet.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      const x = first * view.cell - offset;
      context.drawImage(sheet, x, strip.top, columns * view.cell, strip.height);
      if (strip.layer === this.layer) {
        const y = strip.top + (this.unit + 0.5) * strip.height / rows;
        context.fillStyle = css(palette.ink);
        context.beginPath();
        context.moveTo(0, y - 4); context.lineTo(6, y); context.lineTo(0, y + 4);
        context.fill();
      }
    }
    line(context, strip, first, end, offset, view) {
      const unit = strip.layer === this.layer ? this.unit : (strip.unit ??= this.busiest(strip.layer));
      const arrays = Object.entries(strip.layer.arrays);
      const middle = strip.top + strip.height / 2;
      context.save();
      context.beginPath();
      context.rect(0, strip.top, context.canvas.width, strip.height);
      context.clip();
      context.strokeStyle = css(palette.soft, 0.4);
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(0, middle); context.lineTo(context.canvas.width, middle);
      context.stroke();
      const dashes = { h: [], c: [8, 3], input: [2, 3], forget: [6, 3, 2, 3], output: [1, 4],
        reset: [2, 3], update: [6, 3, 2, 3], candidate: [4, 6] };
      for (const [name, array] of arrays) {
        const most = Math.max(1, Math.abs(array.low));
        context.setLineDash(dashes[name] || []);
        context.lineWidth = name === "h" ? 2.5 : 1.3;
        context.strokeStyle = css(name === "h" ? palette.up : name === "c" ? palette.down : palette.soft);
        context.beginPath();
        for (let step = Math.max(0, first - 1); step < Math.min(end + 1, array.rows); step++) {
          const x = (step + 0.5) * view.cell - offset;
          const y = middle - array.get(step, unit) / most * (strip.height / 2 - 3);
          step === Math.max(0, first - 1) ? context.moveTo(x, y) : context.lineTo(x, y);
        }
        context.stroke();
      }
      context.setLineDash([]);
      context.restore();
    }
    // the tokens that are seen, as text; elements are used again while one scrolls
    write(view, names, first, end) {
      const wanted = (end - first) * (view.shown ? 2 : 1);
      while (view.texts.length < wanted) view.texts.push(make("span", "token", view.track));
      view.texts.forEach((element, index) => { element.hidden = index >= wanted; });
      let next = 0;
      const put = (step, text, className, top) => {
        const element = view.texts[next++];
        const seen = visible(text);
        if (element.textContent !== seen) element.textContent = seen;
        element.className = className + (step === this.step && view.over === this.over ? " now" : "");
        element.style.cssText = `left:${step * view.cell}px;width:${view.cell}px;top:${top}px`;
      };
      for (let step = first; step < end; step++) {
        put(step, names[step], "token", 1);
        if (!view.shown) continue;
        const best = this.predictions.get(step);
        put(step, best ? this.outcome(best[0]) : "", "said-next", TOKEN);
      }
    }
    outcome([name, value]) {
      return this.trace.values ? String(value) : visible(name);
    }
    hit(view, event, click) {
      const box = view.canvas.getBoundingClientRect();
      const x = event.clientX - box.left + view.scroller.scrollLeft;
      const y = event.clientY - box.top;
      const step = Math.floor(x / view.cell);
      if (step < 0 || step >= this.names(view.over).length) return;
      const strip = view.strips.find((s) => y >= s.top && y < s.top + s.height);
      let { layer, unit } = this;
      if (strip) {
        layer = strip.layer;
        if (!strip.line)
          unit = Math.min(strip.array.columns - 1,
            Math.floor((y - strip.top) / strip.height * strip.array.columns));
        else if (layer !== this.layer) unit = this.busiest(layer);
      } else if (layer.over !== view.over) {
        layer = view.layers[0];
        unit = this.busiest(layer);
      }
      if (click) this.choose(layer, unit, step);
      else view.canvas.title = this.text(layer, unit, step);
    }
    key(view, event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
        PageUp: [-20, 0], PageDown: [20, 0], Home: [-1e9, 0], End: [1e9, 0] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const layer = this.layer.over === view.over ? this.layer : view.layers[0];
      const units = layer.arrays.h.columns, steps = layer.arrays.h.rows;
      const step = Math.max(0, Math.min(steps - 1, (this.over === view.over ? this.step : 0) + move[0]));
      const unit = Math.max(0, Math.min(units - 1, this.unit + move[1]));
      this.choose(layer, unit, step);
      const left = step * view.cell;
      if (left < view.scroller.scrollLeft || left + view.cell > view.scroller.scrollLeft + view.scroller.clientWidth)
        view.scroller.scrollLeft = left - view.scroller.clientWidth / 2;
    }
    choose(layer, unit, step) {
      Object.assign(this, { layer, unit, step, over: layer.over });
      this.views.forEach((view) => this.later(view));
      this.tell();
      this.open();
    }
    text(layer, unit, step) {
      const values = Object.entries(layer.arrays)
        .filter(([, array]) => step < array.rows)
        .map(([name, array]) => `${say(name)} ${array.get(step, unit).toFixed(2)}`);
      const name = visible(this.names(layer.over)[step]);
      return `${say("step")} ${step + 1} “${name}” · ${layer.name}, ${say(layer.direction)}, `
        + `${say("unit")} ${layer.units[unit]}: ${values.join(", ")}`;
    }
    tell() {
      let text = this.text(this.layer, this.unit, this.step);
      const best = this.predictions.get(this.step);
      if (best && this.over === this.trace.over)
        text += ` · ${say("next")}: ` + best.map(([name, value]) =>
          this.trace.values ? value : `${visible(name)} ${value.toFixed(3)}`).join(", ");
      this.out.textContent = text;
    }
    // the chosen step, as textbooks draw its cell
    open() {
      const { layer, unit, step } = this;
      const at = (name, when) => {
        const array = layer.arrays[name];
        return array && when >= 0 && when < array.rows ? array.get(when, unit) : null;
      };
      const before = step + (layer.direction === "backward" ? 1 : -1);
      const n = (value) => value === null ? "0" : value.toFixed(2).replace("-", "−");
      const v = { h: at("h", step), c: at("c", step), hb: at("h", before), cb: at("c", before),
        i: at("input", step), f: at("forget", step), g: at("candidate", step), o: at("output", step),
        r: at("reset", step), z: at("update", step) };
      const cell = this.section.querySelector(".cell");
      cell.replaceChildren();
      const draw = CELLS[layer.cell] || CELLS.other;
      const { svg, lines } = draw(v, n, this.names(layer.over)[step]);
      if (svg) {
        const holder = new DOMParser().parseFromString(
          `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 240" role="img">${svg}</svg>`,
          "image/svg+xml").documentElement;
        holder.setAttribute("aria-label", lines.join("; "));
        cell.append(document.importNode(holder, true));
      }
      for (const line of lines) make("p", "", cell, line);
      if (layer.cell === "attention") this.heads?.of(step);
    }
  }

  // pieces of a cell's drawing
  const node = (x, y, text, round = true) =>
    (round ? `<circle class="node" cx="${x}" cy="${y}" r="15"/>`
      : `<rect class="node" x="${x - 24}" y="${y - 15}" width="48" height="30" rx="6"/>`)
    + `<text x="${x}" y="${y + 5}" text-anchor="middle">${text}</text>`;
  const number = (x, y, text, anchor = "middle") =>
    `<text class="number" x="${x}" y="${y}" text-anchor="${anchor}">${text}</text>`;
  const soft = (x, y, text, anchor = "middle") =>
    `<text class="soft" x="${x}" y="${y}" text-anchor="${anchor}">${text}</text>`;
  const wire = (path) => `<path class="wire" d="${path}"/>`;
  const CELLS = {
    lstm: (v, n) => ({
      svg: wire("M20 50H540M20 215H370M70 215V175M70 145V65M170 215V175M170 145V100H215M290 215V175"
          + "M290 145V100H245M230 85V65M370 215V175M370 145H455M470 50V72M470 102V130M470 160V215H540")
        + node(70, 50, "×") + node(230, 50, "+") + node(230, 100, "×")
        + node(70, 160, "σ", false) + node(170, 160, "σ", false) + node(290, 160, "tanh", false)
        + node(370, 160, "σ", false) + node(470, 87, "tanh", false) + node(470, 145, "×")
        + soft(20, 30, "c before", "start") + number(20, 44, n(v.cb), "start")
        + soft(540, 30, "c", "end") + number(540, 44, n(v.c), "end")
        + soft(20, 205, "h before, x", "start") + number(20, 234, n(v.hb), "start")
        + soft(540, 205, "h", "end") + number(540, 234, n(v.h), "end")
        + number(76, 136, `f ${n(v.f)}`, "start") + number(176, 136, `i ${n(v.i)}`, "start")
        + number(296, 136, `g ${n(v.g)}`, "start") + number(376, 136, `o ${n(v.o)}`, "start"),
      lines: [`c = f × c₋₁ + i × g = ${n(v.f)} × ${n(v.cb)} + ${n(v.i)} × ${n(v.g)} = ${n(v.c)}`,
        `h = o × tanh(c) = ${n(v.o)} × tanh(${n(v.c)}) = ${n(v.h)}`],
    }),
    gru: (v, n) => ({
      svg: wire("M20 50H540M20 215H430M110 215V175M110 145V110M80 50V95H95M125 95H405V145"
          + "M250 215V175M250 145V65M430 215V175M430 145V115M430 85V65M250 100H415")
        + node(250, 50, "×") + node(430, 50, "+") + node(110, 95, "×") + node(430, 100, "×")
        + node(110, 160, "σ", false) + node(250, 160, "σ", false) + node(430, 160, "tanh", false)
        + soft(20, 40, "h before", "start") + number(20, 70, n(v.hb), "start")
        + soft(540, 40, "h", "end") + number(540, 70, n(v.h), "end")
        + soft(20, 205, "h before, x", "start")
        + number(142, 165, `r ${n(v.r)}`, "start") + number(282, 165, `z ${n(v.z)}`, "start")
        + number(462, 165, `n ${n(v.g)}`, "start") + soft(340, 118, "1 − z"),
      lines: [`h = (1 − z) × n + z × h₋₁ = ${n(v.z === null ? null : 1 - v.z)} × ${n(v.g)} + ${n(v.z)} × ${n(v.hb)} = ${n(v.h)}`],
    }),
    mingru: (v, n) => ({
      svg: wire("M20 50H540M20 215H430M250 215V175M250 145V65M430 215V175M430 145V115M430 85V65M250 100H415")
        + node(250, 50, "×") + node(430, 50, "+") + node(430, 100, "×")
        + node(250, 160, "σ", false) + node(430, 160, "W x", false)
        + soft(20, 40, "h before", "start") + number(20, 70, n(v.hb), "start")
        + soft(540, 40, "h", "end") + number(540, 70, n(v.h), "end") + soft(20, 205, "x", "start")
        + number(282, 165, `z ${n(v.z)}`, "start") + number(462, 165, n(v.g), "start")
        + soft(340, 92, "z") + soft(300, 40, "1 − z"),
      lines: [`h = (1 − z) × h₋₁ + z × candidate = ${n(v.z === null ? null : 1 - v.z)} × ${n(v.hb)} + ${n(v.z)} × ${n(v.g)} = ${n(v.h)}`],
    }),
    rnn_tanh: (v, n) => rnn(v, n, "tanh"),
    rnn_relu: (v, n) => rnn(v, n, "relu"),
    attention: (v, n) => ({ svg: "", lines: [`h = ${n(v.h)}`,
      "softmax(q k / √d) v, in each head, then a network at each step"] }),
    other: (v, n) => ({ svg: "", lines: [`h = f(x) = ${n(v.h)}`] }),
  };
  const rnn = (v, n, name) => ({
    svg: wire("M20 120H540M160 205V120M160 205H20") + node(280, 120, name, false) + node(160, 120, "+")
      + soft(20, 108, "h before", "start") + number(20, 142, n(v.hb), "start")
      + soft(20, 195, "x", "start") + soft(540, 108, "h", "end") + number(540, 142, n(v.h), "end"),
    lines: [`h = ${name}(W x + U h₋₁ + b) = ${n(v.h)}`],
  });

  class Heads {
    constructor(section, trace, stored) {
      this.box = section.querySelector(".heads");
      this.trace = trace;
      this.stored = stored;
      this.maps = trace.attention.flatMap((part) =>
        Array.from({ length: part.weights.shape[0] }, (_, head) => ({ part, head })));
      if (!this.box || !this.maps.length) return;
      this.box.hidden = false;
      this.build();
    }
    build() {
      this.box.replaceChildren();
      for (const map of this.maps) {
        const button = make("button", "", this.box,
          `${map.part.name}, ${say("head")} ${map.head + 1}`);
        button.type = "button";
        button.setAttribute("aria-pressed", "false");
        this.paint(make("canvas", "", button), map);
        button.addEventListener("click", () => this.enlarge(map, button));
      }
      this.large = make("div", "large", this.box);
      this.large.tabIndex = 0;
      this.large.setAttribute("role", "group");
      this.enlarge(this.maps[this.maps.length - 1], this.box.querySelectorAll("button")[this.maps.length - 1]);
    }
    value({ part, head }, query, key) {
      const [, rows, columns] = part.weights.shape;
      return part.weights.low + part.weights.step
        * this.stored[part.weights.at + (head * rows + query) * columns + key];
    }
    paint(canvas, map) {
      const [, rows, columns] = map.part.weights.shape;
      canvas.width = columns;
      canvas.height = rows;
      const image = new ImageData(columns, rows);
      for (let query = 0; query < rows; query++)
        for (let key = 0; key < columns; key++)
          shade(this.value(map, query, key), 1, image.data, 4 * (query * columns + key), true);
      canvas.getContext("2d").putImageData(image, 0, 0);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${map.part.name}, ${say("head")} ${map.head + 1}`);
    }
    enlarge(map, button) {
      this.box.querySelectorAll("button").forEach((other) =>
        other.setAttribute("aria-pressed", String(other === button)));
      this.map = map;
      this.large.replaceChildren();
      this.large.setAttribute("aria-label", button.textContent);
      const [, rows, columns] = map.part.weights.shape;
      const isSmall = Math.max(rows, columns) <= 48 && map.part.span === 1;
      const drawing = isSmall ? this.grid(map) : make("canvas", "");
      this.large.append(drawing);
      if (!isSmall) this.paint(drawing, map);
      this.words = make("p", "", this.large);
      drawing.addEventListener("mousemove", (event) => {
        const box = drawing.getBoundingClientRect();
        const top = isSmall ? 84 : 0, high = isSmall ? 18 : box.height / rows;
        this.of(Math.floor((event.clientY - box.top - top) / high) * map.part.span);
      });
      this.of((rows - 1) * map.part.span);
    }
    names(part) { return part.kind === "self" ? this.trace.tokens : this.trace.written; }
    keys(part) { return part.kind === "written" ? this.trace.written : this.trace.tokens; }
    // one head with its tokens, as text
    grid(map) {
      const [, rows, columns] = map.part.weights.shape;
      const size = 18, left = 110, top = 84;
      const space = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(space, "svg");
      svg.setAttribute("width", left + columns * size + 6);
      svg.setAttribute("height", top + rows * size + 6);
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${map.part.name}, ${say("head")} ${map.head + 1}`);
      const add = (tag, attributes, text) => {
        const element = document.createElementNS(space, tag);
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        if (text !== undefined) element.textContent = visible(text).slice(0, 14);
        svg.append(element);
        return element;
      };
      for (let key = 0; key < columns; key++) {
        const x = left + (key + 0.65) * size;
        add("text", { x, y: top - 6, transform: `rotate(-60 ${x} ${top - 6})` }, this.keys(map.part)[key]);
      }
      const queries = this.names(map.part);
      for (let query = 0; query < rows; query++) {
        const y = top + query * size;
        add("text", { x: left - 8, y: y + 13, "text-anchor": "end" }, queries[query]);
        for (let key = 0; key < columns; key++) {
          const weight = this.value(map, query, key);
          if (weight < 0.005) continue;
          const box = add("rect", { x: left + key * size, y, width: size - 1, height: size - 1,
            fill: "currentColor", "fill-opacity": weight.toFixed(3) });
          const title = document.createElementNS(space, "title");
          title.textContent = `${queries[query]} → ${this.keys(map.part)[key]}: ${weight.toFixed(2)}`;
          box.append(title);
        }
      }
      return svg;
    }
    of(step) {
      const { part } = this.map;
      const query = Math.floor(step / part.span);
      const [, rows, columns] = part.weights.shape;
      if (query < 0 || query >= rows) return;
      const names = this.names(part);
      const keys = Array.from({ length: columns }, (_, key) => [this.value(this.map, query, key), key]);
      keys.sort((a, b) => b[0] - a[0]);
      this.words.textContent = `${step + 1} “${visible(names[step] ?? "")}” ${say("looks")}: `
        + keys.slice(0, 5).map(([weight, key]) =>
          `“${visible(this.keys(part)[key * part.span] ?? "")}” ${weight.toFixed(2)}`).join(", ");
    }
  }

  const start = async () => {
    const stored = await unpack();
    repaint();
    const graphs = [...document.querySelectorAll("section[data-trace]")].map((section) => {
      const trace = traces[Number(section.dataset.trace)];
      const heads = new Heads(section, trace, stored);
      const graph = new Graph(section, trace, reader(stored));
      graph.heads = heads.large ? heads : null;
      for (const button of section.querySelectorAll(".tracking button"))
        button.addEventListener("click", () => {
          const layer = graph.layers.find((l) => l.name === button.dataset.layer
            && l.direction === button.dataset.direction);
          const unit = layer ? layer.units.indexOf(Number(button.dataset.unit)) : -1;
          if (unit >= 0) graph.choose(layer, unit, graph.over === layer.over ? graph.step : 0);
          graph.box.scrollIntoView({ block: "nearest" });
        });
      return { graph, heads };
    });
    document.addEventListener("unrolled:change", () => {
      repaint();
      for (const { graph, heads } of graphs) {
        if (heads.large) heads.build();
        for (const view of graph.views || []) { graph.label(view); graph.later(view); }
        if (graph.views) { graph.tell(); graph.open(); }
      }
    });
    document.documentElement.dataset.drawn = "yes";
  };
  start();
})();
