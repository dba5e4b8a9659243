// The piano roll: a lane for each instrument under one time axis. Draws what is in view.
import { FIELDS, clockTime, element, findSilent, pitchName } from "./tracks.js";

const BLACK = new Set([1, 3, 6, 8, 10]);
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
const AXIS_HEIGHT = 26, DRUM_LANE = 15, GUTTER = 58, MOST_PIXELS = 8e6;
const COLOURS = ["ground", "panel", "faint", "line", "grid", "key"];

export class Roll {
  // `place`: element to fill. `kit`: `drum_lanes`, their names, and `drum_lane_of` each
  // pitch. `seek(seconds)` and `mixChanged()` are called when the user does so;
  // `keyPressed(event)` for keys in the roll.
  constructor(place, { kit, seek, mixChanged, keyPressed }) {
    Object.assign(this, { kit, mixChanged, tracks: [], rows: new Map() });
    this.scale = 80; // pixels per second
    this.isNew = true; // whether the beginning is shown as soon as the roll is seen
    this.frontier = null; // until where the recording is transcribed; null: all of it
    this.duration = 0.1;
    this.axis = element("canvas", { "aria-hidden": "true" });
    this.view = element("div", { className: "view" }, this.axis);
    this.stack = element("div", { className: "stack" }, element("div", { className: "lane axis" },
      element("div", { className: "label" }), element("div", { className: "gutter" }), this.view));
    // The playhead moves above the canvases, which need not be drawn again then.
    this.head = element("div", { className: "head" });
    this.seconds = 0;
    this.stack.append(this.head);
    this.spacer = element("div", { className: "spacer" }, this.stack);
    this.scroller = element("div", {
      className: "scroller", tabIndex: 0, role: "region",
      "aria-label": "Piano roll. Space plays and pauses, left and right arrows move by "
        + "five seconds, with Shift by one.",
    }, this.spacer);
    place.replaceChildren(this.scroller);
    this.stack.addEventListener("click", (event) => {
      if (event.target.tagName !== "CANVAS" || event.target.parentNode.className !== "view") return;
      seek(this.first + (event.clientX - this.view.getBoundingClientRect().left) / this.scale);
    });
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => {
      if (event.target === this.scroller) keyPressed(event);
    });
    this.dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.layOut()).observe(this.scroller);
  }

  get position() { return this.seconds; }

  set position(seconds) {
    this.seconds = seconds;
    this.placeHead();
  }

  placeHead() {
    const x = (this.seconds - this.first) * this.scale;
    this.head.hidden = x < 0 || x > this.width;
    this.head.style.transform = `translateX(${this.view.offsetLeft + Math.round(x) - 1}px)`;
  }

  get first() { return this.scroller.scrollLeft / this.scale; }

  get width() { return this.view.clientWidth; }

  // Shows these tracks, in this order.
  setTracks(tracks) {
    this.tracks = tracks;
    for (const track of tracks) {
      if (!this.rows.has(track)) this.rows.set(track, this.makeRow(track));
    }
    for (const [track, row] of this.rows) {
      if (tracks.includes(track)) continue;
      row.lane.remove();
      this.rows.delete(track);
    }
    tracks.forEach((track, i) => {
      const { lane } = this.rows.get(track);
      if (this.stack.children[i + 1] !== lane) this.stack.insertBefore(lane, this.stack.children[i + 1]);
    });
    this.layOut();
  }

  makeRow(track) {
    const button = (properties, press) => {
      const made = element("button", { type: "button", ...properties });
      made.addEventListener("click", () => { press(made); this.changed(); });
      return made;
    };
    const pressed = (text, key) => button({
      className: "small", textContent: text, "aria-pressed": "false",
      "aria-label": `${text} ${track.name}`,
    }, (made) => {
      track[key] = !track[key];
      made.setAttribute("aria-pressed", String(track[key]));
    });
    const fold = button({
      className: "fold", "aria-expanded": "true", "aria-label": `Notes of ${track.name}`,
      title: "Hide or show the notes",
    }, (made) => {
      track.folded = !track.folded;
      made.setAttribute("aria-expanded", String(!track.folded));
    });
    const swatch = element("span", { className: "swatch" });
    swatch.style.setProperty("--colour", track.colour);
    const canvas = element("canvas", { role: "img" });
    const gutter = element("canvas", { "aria-hidden": "true" });
    const lane = element("div", { className: "lane", role: "group", "aria-label": track.name },
      element("div", { className: "label" }, fold,
        element("span", { className: "name", title: track.name }, swatch, track.name),
        element("span", { className: "mix" }, pressed("Mute", "muted"), pressed("Solo", "solo"))),
      element("div", { className: "gutter" }, gutter), element("div", { className: "view" }, canvas));
    return { lane, canvas, gutter };
  }

  changed() {
    findSilent(this.tracks);
    this.mixChanged();
    this.layOut();
  }

  // Pitches that a lane shows, and its height in pixels.
  range(track) {
    if (track.isDrum) return { height: this.kit.drum_lanes.length * DRUM_LANE };
    const middle = Math.round((track.low + track.high) / 2);
    const low = Math.max(0, Math.min(track.low - 1, middle - 6));
    const high = Math.min(127, Math.max(track.high + 1, middle + 6));
    return { low, high, height: Math.min(240, Math.max(78, (high - low + 1) * 6)) };
  }

  layOut() {
    const whole = this.scroller.clientWidth;
    if (!whole) return; // not shown
    this.stack.style.width = `${whole}px`;
    if (this.isNew) {
      this.isNew = false;
      this.showBeginning();
      return;
    }
    const length = Math.max(this.width, Math.ceil(this.duration * this.scale) + 20);
    this.spacer.style.width = `${whole - this.width + length}px`;
    this.size(this.axis, this.width, AXIS_HEIGHT);
    for (const track of this.tracks) {
      const { lane, canvas, gutter } = this.rows.get(track), { height } = this.range(track);
      lane.classList.toggle("folded", track.folded);
      lane.classList.toggle("silent", track.silent);
      if (track.folded) continue;
      this.size(canvas, this.width, height);
      this.size(gutter, GUTTER, height);
      canvas.setAttribute("aria-label", `${track.count} note${track.count === 1 ? "" : "s"}`);
    }
    this.draw();
  }

  size(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.drawNow(); });
  }

  drawNow() {
    this.placeHead();
    const style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(
      COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    const view = { first: this.first, width: this.width, colours };
    view.last = view.first + view.width / this.scale;
    view.step = STEPS.find((step) => step * this.scale >= 70) || 3600;
    this.drawAxis(this.begin(this.axis, colours.ground), view);
    for (const track of this.tracks) {
      if (track.folded) continue;
      const { canvas, gutter } = this.rows.get(track), range = this.range(track);
      const pen = this.begin(canvas, colours.ground);
      if (track.isDrum) this.drawDrums(pen, track, view, range);
      else this.drawPitches(pen, track, view, range);
      this.drawVeil(pen, view, range.height);
      this.drawGutter(this.begin(gutter, colours.panel), track, colours, range);
    }
  }

  begin(canvas, ground) {
    const pen = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = ground;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.font = "11px system-ui, sans-serif";
    return pen;
  }

  eachTick(view, action) {
    for (let n = Math.ceil(view.first / view.step); n * view.step <= view.last; n++) {
      action(n * view.step, Math.round((n * view.step - view.first) * this.scale));
    }
  }

  drawAxis(pen, view) {
    this.eachTick(view, (time, x) => {
      pen.fillStyle = view.colours.line;
      pen.fillRect(x, AXIS_HEIGHT - 6, 1, 6);
      pen.fillStyle = view.colours.faint;
      pen.fillText(clockTime(time, view.step < 1 ? 1 : 0), x + 4, AXIS_HEIGHT - 9);
    });
    this.drawVeil(pen, view, AXIS_HEIGHT);
  }

  drawTimeLines(pen, view, height) {
    pen.fillStyle = view.colours.grid;
    this.eachTick(view, (_, x) => pen.fillRect(x, 0, 1, height));
  }

  // A veil over what is not transcribed yet.
  drawVeil(pen, view, height) {
    if (this.frontier === null || this.frontier >= view.last) return;
    const x = Math.max(0, (this.frontier - view.first) * this.scale);
    pen.fillStyle = view.colours.line;
    pen.globalAlpha = 0.45;
    pen.fillRect(x, 0, view.width - x, height);
    pen.globalAlpha = 1;
  }

  eachNote(track, view, action) {
    const { notes, count } = track;
    for (let n = track.lowerBound(view.first - track.longest); n < count; n++) {
      const i = n * FIELDS;
      if (notes[i] > view.last) break;
      if (notes[i + 1] >= view.first || track.isDrum) {
        action((notes[i] - view.first) * this.scale, (notes[i + 1] - view.first) * this.scale,
          notes[i + 2], notes[i + 3]);
      }
    }
  }

  shade(colour) {
    if (!this.dark.matches) return colour;
    const part = (i) => Math.round(parseInt(colour.slice(i, i + 2), 16) * 0.6 + 102);
    return `rgb(${part(1)}, ${part(3)}, ${part(5)})`;
  }

  // Softer notes are paler, and those that are not heard paler still.
  opacity(track, velocity) {
    return (track.silent ? 0.3 : 1) * (0.6 + 0.4 * velocity / 127);
  }

  drawPitches(pen, track, view, { low, high, height }) {
    const row = height / (high - low + 1), top = (pitch) => (high - pitch) * row;
    pen.fillStyle = view.colours.key;
    for (let pitch = low; pitch <= high; pitch++) {
      if (BLACK.has(pitch % 12)) pen.fillRect(0, top(pitch), view.width, row);
    }
    this.drawTimeLines(pen, view, height);
    pen.fillStyle = view.colours.line;
    for (let pitch = low; pitch <= high; pitch++) {
      if (pitch % 12 === 0) pen.fillRect(0, Math.round(top(pitch) + row) - 1, view.width, 1);
    }
    pen.fillStyle = this.shade(track.colour);
    this.eachNote(track, view, (left, right, pitch, velocity) => {
      pen.globalAlpha = this.opacity(track, velocity);
      pen.fillRect(left, top(pitch), Math.max(2, right - left - 1), Math.max(2, row - 1));
    });
    pen.globalAlpha = 1;
  }

  drawDrums(pen, track, view, { height }) {
    pen.fillStyle = view.colours.key;
    for (let y = 0; y < height; y += 2 * DRUM_LANE) pen.fillRect(0, y, view.width, DRUM_LANE);
    this.drawTimeLines(pen, view, height);
    pen.fillStyle = this.shade(track.colour);
    this.eachNote(track, view, (left, _, pitch, velocity) => {
      pen.globalAlpha = this.opacity(track, velocity);
      pen.fillRect(left, this.kit.drum_lane_of[pitch] * DRUM_LANE + 2, 3, DRUM_LANE - 4);
    });
    pen.globalAlpha = 1;
  }

  drawGutter(pen, track, colours, { low, high, height }) {
    pen.fillStyle = colours.faint;
    pen.textAlign = "right";
    const write = (text, y) => pen.fillText(text, GUTTER - 6, Math.min(Math.max(y, 9), height - 2));
    if (track.isDrum) {
      this.kit.drum_lanes.forEach((name, lane) => write(name, lane * DRUM_LANE + 11));
      return;
    }
    const row = height / (high - low + 1);
    for (let pitch = low; pitch <= high; pitch++) {
      if (pitch % 12 === 0) write(pitchName(pitch), (high - pitch + 0.5) * row + 4);
    }
  }

  zoom(factor) { this.setScale(this.scale * factor); }

  // Sets the scale as far as it makes sense, the middle staying where it is.
  setScale(wanted) {
    const middle = this.first + this.width / 2 / this.scale;
    const whole = (this.width - 20) / Math.max(1, this.duration);
    // A page cannot be wider than some millions of pixels.
    const highest = Math.min(800, MOST_PIXELS / Math.max(1, this.duration));
    this.scale = Math.min(Math.max(wanted, Math.min(whole, highest)), highest);
    this.layOut();
    this.scroller.scrollLeft = middle * this.scale - this.width / 2;
  }

  // Half a minute from the beginning, or all of a shorter piece.
  showBeginning() {
    this.setScale(this.width / Math.min(30, this.duration));
    this.scroller.scrollLeft = 0;
  }

  // Scrolls a time into view, if it is not.
  show(time) {
    const x = (time - this.first) * this.scale;
    if (x < 0 || x > 0.85 * this.width) {
      this.scroller.scrollLeft = time * this.scale - 0.1 * this.width;
    }
  }
}
