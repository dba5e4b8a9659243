"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  // Notes lie flat in one array each: start, end (seconds), pitch, velocity.
  const FIELDS = 4;
  const LOOK_AHEAD = 0.4; // seconds of notes handed to the audio clock at a time
  const PAGE_ROWS = 100;
  const BLACK = new Set([1, 3, 6, 8, 10]);
  const NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
  const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
  const AXIS_HEIGHT = 26, FOLDED_HEIGHT = 34, DRUM_LANE = 15, GUTTER = 56;

  const pitchName = (pitch) => NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);
  const clockTime = (seconds, digits) => {
    const scale = 10 ** digits;
    const units = Math.round(Math.max(0, seconds) * scale);
    const whole = Math.floor(units / scale);
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    const rest = String(whole % 60).padStart(2, "0");
    const fraction = digits ? "." + String(units % scale).padStart(digits, "0") : "";
    const head = hours ? hours + ":" + String(minutes).padStart(2, "0") : minutes;
    return `${head}:${rest}${fraction}`;
  };
  const element = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  const tracks = data.instruments.map((instrument) => {
    const notes = instrument.notes, count = notes.length / FIELDS;
    let low = 127, high = 0, longest = 0;
    for (let i = 0; i < notes.length; i += FIELDS) {
      longest = Math.max(longest, notes[i + 1] - notes[i]);
      low = Math.min(low, notes[i + 2]);
      high = Math.max(high, notes[i + 2]);
    }
    const middle = Math.round((low + high) / 2);
    low = Math.max(0, Math.min(low - 1, middle - 6));
    high = Math.min(127, Math.max(high + 1, middle + 6));
    const rows = high - low + 1;
    const height = instrument.is_drum ? data.drum_lanes.length * DRUM_LANE
      : Math.min(240, Math.max(70, rows * 6));
    return { ...instrument, count, low, high, longest, height, shown: true, sounds: true };
  });
  if (!tracks.length) { byId("empty").hidden = false; return; }

  // First note of a track that begins at or after a time.
  const lowerBound = (track, time) => {
    let low = 0, high = track.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (track.notes[middle * FIELDS] < time) low = middle + 1; else high = middle;
    }
    return low;
  };

  // ---- Piano roll ----------------------------------------------------------
  const scroller = byId("scroller"), spacer = byId("spacer"), stack = byId("stack");
  const labels = byId("labels");
  let scale = 80; // pixels per second
  let position = 0; // playhead, seconds
  let drawPending = false;

  const axis = element("canvas", {});
  stack.append(element("div", { className: "axis" }, axis));
  const axisLabel = element("div", { className: "axis" });
  axisLabel.style.height = `${AXIS_HEIGHT}px`;
  labels.append(axisLabel);
  for (const track of tracks) {
    track.canvas = element("canvas", {});
    track.canvas.setAttribute("role", "img");
    track.canvas.setAttribute("aria-label", `${track.name}: ${track.count} notes`);
    track.lane = element("div", { className: "lane" }, track.canvas);
    stack.append(track.lane);
    const toggle = (text, key, className) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.setAttribute("aria-label", `${text} ${track.name}`);
      box.addEventListener("change", () => { track[key] = box.checked; changed(track); });
      return element("label", { className }, box, ` ${text}`);
    };
    const swatch = element("span", { className: "swatch" });
    swatch.style.setProperty("--colour", track.colour);
    const name = element("span", { className: "name", title: track.name }, swatch, track.name);
    track.gutter = element("canvas", { className: "gutter" });
    track.gutter.setAttribute("aria-hidden", "true");
    track.label = element("div", { className: "lane" }, name, element("div",
      { className: "toggles" }, toggle("Show", "shown", ""), toggle("Play", "sounds", "sound")),
    track.gutter);
    labels.append(track.label);
  }

  const changed = (track) => {
    if (track.gain) track.gain.gain.value = track.shown && track.sounds ? 1 : 0;
    layOut();
    fillTable();
  };
  const layOut = () => {
    const width = scroller.clientWidth;
    spacer.style.width = `${Math.max(width, Math.ceil(data.duration * scale) + 20)}px`;
    stack.style.width = `${width}px`;
    sizeCanvas(axis, width, AXIS_HEIGHT);
    for (const track of tracks) {
      track.canvas.style.display = track.shown ? "block" : "none";
      const height = track.shown ? track.height : FOLDED_HEIGHT;
      track.lane.style.height = track.label.style.height = `${height}px`;
      track.label.classList.toggle("folded", !track.shown);
      track.gutter.style.display = track.shown ? "block" : "none";
      if (!track.shown) continue;
      sizeCanvas(track.canvas, width, track.height);
      sizeCanvas(track.gutter, GUTTER, track.height);
    }
    draw();
  };
  const sizeCanvas = (canvas, width, height) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  };
  const draw = () => {
    if (drawPending) return;
    drawPending = true;
    requestAnimationFrame(() => { drawPending = false; drawNow(); });
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const shade = (colour) => {
    if (!dark.matches) return colour;
    const part = (i) => Math.round(parseInt(colour.slice(i, i + 2), 16) * 0.6 + 102);
    return `rgb(${part(1)}, ${part(3)}, ${part(5)})`;
  };
  const drawNow = () => {
    const style = getComputedStyle(document.documentElement);
    const colours = {};
    for (const name of ["ground", "panel", "faint", "line", "grid", "key", "head"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    const view = { first: scroller.scrollLeft / scale, width: scroller.clientWidth };
    view.last = view.first + view.width / scale;
    view.step = STEPS.find((s) => s * scale >= 70) || 3600;
    drawAxis(begin(axis, colours), view, colours);
    for (const track of tracks) {
      if (!track.shown) continue;
      const pen = begin(track.canvas, colours);
      if (track.is_drum) drawDrums(pen, track, view, colours);
      else drawPitches(pen, track, view, colours);
      drawHead(pen, view, colours, track.height);
      drawGutter(track, colours);
    }
    byId("clock").textContent = clockTime(position, 1);
    followScore();
  };
  const begin = (canvas, colours, ground = colours.ground) => {
    const pen = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = ground;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.font = "11px system-ui, sans-serif";
    return pen;
  };
  const eachTick = (view, action) => {
    for (let n = Math.ceil(view.first / view.step); n * view.step <= view.last; n++) {
      action(n * view.step, Math.round((n * view.step - view.first) * scale));
    }
  };
  const drawAxis = (pen, view, colours) => {
    eachTick(view, (time, x) => {
      pen.fillStyle = colours.line;
      pen.fillRect(x, AXIS_HEIGHT - 6, 1, 6);
      pen.fillStyle = colours.faint;
      pen.fillText(clockTime(time, view.step < 1 ? 1 : 0), x + 4, AXIS_HEIGHT - 9);
    });
    drawHead(pen, view, colours, AXIS_HEIGHT);
  };
  const drawTimeLines = (pen, view, colours, height) => {
    pen.fillStyle = colours.grid;
    eachTick(view, (_, x) => pen.fillRect(x, 0, 1, height));
  };
  const drawHead = (pen, view, colours, height) => {
    if (position < view.first || position > view.last) return;
    pen.fillStyle = colours.head;
    pen.fillRect(Math.round((position - view.first) * scale) - 1, 0, 2, height);
  };
  const eachNote = (track, view, action) => {
    const notes = track.notes;
    for (let n = lowerBound(track, view.first - track.longest); n < track.count; n++) {
      const i = n * FIELDS;
      if (notes[i] > view.last) break;
      if (notes[i + 1] >= view.first || track.is_drum) {
        action((notes[i] - view.first) * scale, (notes[i + 1] - view.first) * scale,
          notes[i + 2], notes[i + 3]);
      }
    }
  };
  const drawPitches = (pen, track, view, colours) => {
    const rows = track.high - track.low + 1, height = track.height / rows;
    const top = (pitch) => (track.high - pitch) * height;
    pen.fillStyle = colours.key;
    for (let pitch = track.low; pitch <= track.high; pitch++) {
      if (BLACK.has(pitch % 12)) pen.fillRect(0, top(pitch), view.width, height);
    }
    drawTimeLines(pen, view, colours, track.height);
    for (let pitch = track.low; pitch <= track.high; pitch++) {
      if (pitch % 12) continue;
      pen.fillStyle = colours.line;
      pen.fillRect(0, Math.round(top(pitch) + height) - 1, view.width, 1);
    }
    pen.fillStyle = shade(track.colour);
    eachNote(track, view, (left, right, pitch, velocity) => {
      pen.globalAlpha = 0.55 + 0.45 * velocity / 127;
      pen.fillRect(left, top(pitch), Math.max(2, right - left - 1), Math.max(2, height - 1));
    });
    pen.globalAlpha = 1;
  };
  const drawDrums = (pen, track, view, colours) => {
    pen.fillStyle = colours.key;
    for (let lane = 0; lane < data.drum_lanes.length; lane += 2) {
      pen.fillRect(0, lane * DRUM_LANE, view.width, DRUM_LANE);
    }
    drawTimeLines(pen, view, colours, track.height);
    pen.fillStyle = shade(track.colour);
    eachNote(track, view, (left, _, pitch, velocity) => {
      pen.globalAlpha = 0.55 + 0.45 * velocity / 127;
      pen.fillRect(left, data.drum_lane_of[pitch] * DRUM_LANE + 2, 3, DRUM_LANE - 4);
    });
    pen.globalAlpha = 1;
  };
  const drawGutter = (track, colours) => {
    const pen = begin(track.gutter, colours, colours.panel);
    pen.fillStyle = colours.faint;
    pen.textAlign = "right";
    const write = (text, y) => pen.fillText(text, GUTTER - 6, Math.min(y, track.height - 2));
    if (track.is_drum) {
      data.drum_lanes.forEach((name, lane) => write(name, lane * DRUM_LANE + 11));
      return;
    }
    const height = track.height / (track.high - track.low + 1);
    for (let pitch = track.low; pitch <= track.high; pitch++) {
      if (pitch % 12 === 0) write(pitchName(pitch), (track.high - pitch + 0.5) * height + 4);
    }
  };

  const zoom = (factor) => setScale(scale * factor);
  const setScale = (wanted) => {
    const width = scroller.clientWidth;
    const middle = (scroller.scrollLeft + width / 2) / scale;
    const lowest = (width - 20) / Math.max(1, data.duration);
    // A page cannot be wider than some millions of pixels.
    const highest = Math.min(800, 8e6 / Math.max(1, data.duration));
    scale = Math.min(Math.max(wanted, Math.min(lowest, highest)), highest);
    layOut();
    scroller.scrollLeft = middle * scale - width / 2;
  };
  const show = (time) => {
    const width = scroller.clientWidth, x = time * scale - scroller.scrollLeft;
    if (x < 0 || x > 0.85 * width) scroller.scrollLeft = time * scale - 0.1 * width;
  };
  const seek = (time) => {
    const playing = player !== null;
    stop();
    position = Math.min(Math.max(0, time), data.duration);
    if (playing) play();
    draw();
  };
  stack.addEventListener("click", (event) => {
    const left = stack.getBoundingClientRect().left;
    seek((scroller.scrollLeft + event.clientX - left) / scale);
  });
  scroller.addEventListener("scroll", draw, { passive: true });
  scroller.addEventListener("keydown", (event) => {
    if (event.key === " ") { event.preventDefault(); toggle(); }
    if (event.key === "Home") { event.preventDefault(); scroller.scrollLeft = 0; seek(0); }
  });
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("fit").addEventListener("click", () => setScale(0));
  window.addEventListener("resize", layOut);
  dark.addEventListener("change", draw);

  // ---- Playback ------------------------------------------------------------
  const WAVES = ["triangle", "sine", "sine", "triangle", "triangle", "sawtooth", "sawtooth",
    "sawtooth", "square", "sine", "square", "triangle", "triangle", "triangle", "triangle", "triangle"];
  const FADING = new Set([0, 1, 3, 4, 13, 14, 15]); // families whose tones die away
  const LOUDNESS = { sine: 0.16, triangle: 0.16, square: 0.05, sawtooth: 0.06 };
  let player = null;

  const play = () => {
    const Context = window.AudioContext || window.webkitAudioContext;
    if (!Context) return;
    if (position >= data.duration - 0.05) position = 0;
    const audio = new Context(), limiter = audio.createDynamicsCompressor();
    limiter.connect(audio.destination);
    const noise = audio.createBuffer(1, audio.sampleRate, audio.sampleRate);
    const samples = noise.getChannelData(0);
    for (let i = 0; i < samples.length; i++) samples[i] = Math.random() * 2 - 1;
    for (const track of tracks) {
      track.gain = audio.createGain();
      track.gain.gain.value = track.shown && track.sounds ? 1 : 0;
      track.gain.connect(limiter);
      track.next = lowerBound(track, position);
    }
    const origin = audio.currentTime + 0.1 - position;
    player = { audio, noise, origin, timer: setInterval(schedule, 100) };
    schedule();
    byId("play").textContent = "Stop";
    requestAnimationFrame(follow);
  };
  const stop = () => {
    if (!player) return;
    clearInterval(player.timer);
    player.audio.close();
    player = null;
    for (const track of tracks) track.gain = null;
    byId("play").textContent = "Play";
  };
  const toggle = () => (player ? stop() : play());
  const schedule = () => {
    const until = player.audio.currentTime - player.origin + LOOK_AHEAD;
    for (const track of tracks) {
      const notes = track.notes;
      while (track.next < track.count && notes[track.next * FIELDS] < until) {
        const i = FIELDS * track.next++;
        const start = Math.max(player.audio.currentTime, notes[i] + player.origin);
        if (track.is_drum) hit(track, start, notes[i + 2], notes[i + 3]);
        else tone(track, start, notes[i + 1] - notes[i], notes[i + 2], notes[i + 3]);
      }
    }
  };
  const tone = (track, start, length, pitch, velocity) => {
    const { audio } = player, family = track.program >> 3, level = audio.createGain();
    const wave = WAVES[family], peak = LOUDNESS[wave] * (0.3 + 0.7 * velocity / 127);
    const end = start + Math.max(0.06, length);
    level.gain.setValueAtTime(0, start);
    level.gain.linearRampToValueAtTime(peak, start + 0.012);
    if (FADING.has(family)) level.gain.setTargetAtTime(0, start + 0.012, 0.6);
    level.gain.setTargetAtTime(0, end, 0.03);
    const source = audio.createOscillator();
    source.type = wave;
    source.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
    source.connect(level).connect(track.gain);
    source.start(start);
    source.stop(end + 0.2);
  };
  const hit = (track, start, pitch, velocity) => {
    const { audio, noise } = player, lane = data.drum_lane_of[pitch];
    const level = audio.createGain(), peak = 0.5 * (0.3 + 0.7 * velocity / 127);
    const length = [0.14, 0.09, 0.15, 0.03, 0.25, 0.06][lane];
    level.gain.setValueAtTime(peak * (lane === 0 ? 1.4 : 0.5), start);
    level.gain.setTargetAtTime(0, start, length);
    level.connect(track.gain);
    let source;
    if (lane === 0 || lane === 2) {
      source = audio.createOscillator();
      const base = lane === 0 ? 48 : 60 * 2 ** ((pitch - 36) / 12);
      source.frequency.setValueAtTime(base * 2.2, start);
      source.frequency.exponentialRampToValueAtTime(base, start + 0.08);
      source.connect(level);
    } else {
      source = audio.createBufferSource();
      source.buffer = noise;
      const filter = audio.createBiquadFilter();
      filter.type = lane === 1 ? "bandpass" : "highpass";
      filter.frequency.value = lane === 1 ? 1500 : lane === 5 ? 2500 : 6500;
      source.connect(filter).connect(level);
    }
    source.start(start);
    source.stop(start + Math.min(0.95, 6 * length));
  };
  const follow = () => {
    if (!player) return;
    position = Math.max(0, player.audio.currentTime - player.origin);
    if (position >= data.duration) { stop(); position = data.duration; }
    else requestAnimationFrame(follow);
    show(position);
    draw();
  };
  byId("play").addEventListener("click", toggle);

  // ---- Score ---------------------------------------------------------------
  const sheets = [...document.querySelectorAll(".sheet")];
  const measures = sheets.flatMap((sheet) => [...sheet.querySelectorAll(".measure")]);
  const bars = data.bars || [];
  let sheet = 0, barNow = -1;
  const showSheet = (wanted) => {
    sheet = Math.min(Math.max(0, wanted), sheets.length - 1);
    sheets.forEach((element, i) => { element.hidden = i !== sheet; });
    byId("score-page").textContent = `Page ${sheet + 1} of ${sheets.length}`;
    byId("score-previous").disabled = sheet === 0;
    byId("score-next").disabled = sheet >= sheets.length - 1;
  };
  // Marks the bar at the playhead, and turns the page when another bar begins.
  const followScore = () => {
    let bar = bars.length - 1;
    while (bar > 0 && bars[bar] > position) bar--;
    if (bar === barNow) return;
    measures[barNow]?.classList.remove("now");
    measures[bar]?.classList.add("now");
    barNow = bar;
    let first = 0;
    showSheet(data.pages.findIndex((count) => (first += count) > bar));
  };
  if (sheets.length) {
    byId("score-tools").hidden = false;
    byId("score-previous").addEventListener("click", () => showSheet(sheet - 1));
    byId("score-next").addEventListener("click", () => showSheet(sheet + 1));
    byId("score").addEventListener("click", (event) => {
      const bar = measures.indexOf(event.target.closest(".measure"));
      if (bar >= 0) { seek(bars[bar]); show(bars[bar]); }
    });
  }

  // ---- Table of notes ------------------------------------------------------
  const filter = byId("filter");
  filter.append(element("option", { value: "shown" }, "All that are shown"));
  tracks.forEach((track, i) => filter.append(element("option", { value: String(i) }, track.name)));
  let rows = [], page = 0;
  const fillTable = () => {
    const wanted = filter.value === "shown" ? tracks.filter((track) => track.shown)
      : [tracks[Number(filter.value)]];
    rows = [];
    for (const track of wanted) {
      for (let i = 0; i < track.count; i++) rows.push([track, i * FIELDS]);
    }
    rows.sort(([a, i], [b, j]) => a.notes[i] - b.notes[j]);
    page = 0;
    showPage();
  };
  const showPage = () => {
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
    const body = rows.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS).map(([track, i]) => {
      const [start, end, pitch, velocity] = track.notes.slice(i, i + FIELDS);
      const jump = element("button", { type: "button", className: "link" }, clockTime(start, 2));
      jump.setAttribute("aria-label", `Go to ${clockTime(start, 2)} in the piano roll`);
      jump.addEventListener("click", () => { seek(start); show(start); });
      const what = track.is_drum ? data.drum_lanes[data.drum_lane_of[pitch]] : pitchName(pitch);
      const cells = [jump, clockTime(end, 2), `${(end - start).toFixed(2)} s`,
        `${what} (${pitch})`, velocity, track.confidence[i / FIELDS] ?? "-", track.name];
      return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
    });
    byId("rows").replaceChildren(...body);
    byId("page").textContent = `Page ${page + 1} of ${pages}, ${rows.length} notes`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  };
  filter.addEventListener("change", fillTable);
  byId("previous").addEventListener("click", () => { page--; showPage(); });
  byId("next").addEventListener("click", () => { page++; showPage(); });

  for (const id of ["tools", "roll", "notes"]) byId(id).hidden = false;
  // Half a minute at first sight, or all of a shorter piece.
  setScale(scroller.clientWidth / Math.min(30, data.duration));
  scroller.scrollLeft = 0;
  fillTable();
})();
