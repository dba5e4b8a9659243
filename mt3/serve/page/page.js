// The page: which recordings there are, and the result of the one that is chosen.
import { Job, request } from "./job.js";
import { Player } from "./player.js";
import { Roll } from "./roll.js";
import { Sheets } from "./sheets.js";
import { clockTime, element, findSilent } from "./tracks.js";

const KEEP_SECONDS = 60;
const LOCAL = ["localhost", "127.0.0.1", "[::1]"];
const FORMATS = {
  mid: ["MIDI", "For music programs, notation programs and keyboards"],
  musicxml: ["MusicXML", "Sheet music for notation programs"],
  pdf: ["PDF", "Sheet music to print"],
  wav: ["WAV", "The notes as sound"],
  csv: ["CSV", "A table of the notes"],
  json: ["JSON", "The notes for programs"],
  html: ["Report", "One page with piano roll, playback and score, to keep or pass on"],
};

const byId = (id) => document.getElementById(id);
const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

const showProblem = (text) => {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
};

// A file that comes too early is not to take the place of the page.
for (const type of ["dragover", "drop"]) {
  document.addEventListener(type, (event) => event.preventDefault());
}

// What the program says of itself.
const about = await request("/about").then((answer) => answer.json()).catch((error) => {
  showProblem(error.message);
  throw error;
});

// ---- Recordings --------------------------------------------------------------
const jobs = [];
let chosen = null, running = null, sheets = null;
let isFollowing = false; // whether the roll scrolls along with the transcription

const add = (files) => {
  let options;
  try {
    options = readOptions();
  } catch (error) {
    showProblem(error.message);
    return;
  }
  showProblem("");
  for (const file of files) {
    const job = new Job(file, options, about, { changed, played });
    job.row = makeRow(job);
    jobs.push(job);
    byId("jobs").append(job.row.item);
    if (file.size > about.max_megabytes * 2 ** 20) {
      const size = Math.ceil(file.size / 2 ** 20);
      job.set("failed", `${size} MB are too much: the program takes ${about.max_megabytes} MB at most.`);
    } else {
      changed(job);
    }
    if (!chosen || !chosen.isActive && chosen.state !== "done") choose(job);
  }
  byId("recordings").hidden = !jobs.length;
  advance();
};

// One recording after another.
const advance = async () => {
  if (running) return;
  running = jobs.find((job) => job.state === "waiting");
  if (!running) return;
  if (chosen !== running && !player.playing && chosen?.state !== "done") choose(running);
  await running.run();
  running = null;
  advance();
};

const remove = (job) => {
  job.forget();
  URL.revokeObjectURL(job.address);
  const place = jobs.indexOf(job);
  jobs.splice(place, 1);
  job.row.item.remove();
  byId("recordings").hidden = !jobs.length;
  if (chosen === job) choose(jobs[Math.min(place, jobs.length - 1)] ?? null);
  (chosen?.row.pick ?? byId("files")).focus();
};

// ---- The list ----------------------------------------------------------------
const makeRow = (job) => {
  const button = (className, textContent, name, press) => {
    const made = element("button", { type: "button", className, textContent, "aria-label": name });
    made.addEventListener("click", press);
    return made;
  };
  const row = {
    pick: button("pick", job.name, `Show ${job.name}`, () => choose(job)),
    state: element("span", { className: "state" }),
    bar: element("progress", { max: 1, "aria-label": `Progress of ${job.name}` }),
    cancel: button("", "Cancel", `Cancel ${job.name}`, () => { job.cancel(); row.again.focus(); }),
    again: button("", "Try again", `Try ${job.name} again`, () => {
      job.forget();
      job.reset();
      played(job, null);
      changed(job);
      choose(job);
      job.row.pick.focus();
      advance();
    }),
    remove: button("", "Remove", `Remove ${job.name}`, () => remove(job)),
  };
  row.item = element("li", {}, row.pick, row.bar, row.state,
    element("span", { className: "group act" }, row.cancel, row.again, row.remove));
  return row;
};

// Why it failed, without the name that stands above.
const reason = ({ name, error }) => {
  const text = error.startsWith(`${name}: `) ? error.slice(name.length + 2) : error;
  return text[0].toUpperCase() + text.slice(1);
};

const stateText = (job) => {
  const { state, position, seconds_done: done, seconds_total: total, notes } = job;
  const reached = total ? `${clockTime(done, 0)} of ${clockTime(total, 0)}` : clockTime(done, 0);
  return {
    waiting: () => "Waits for its turn",
    sending: () => "Is being read",
    queued: () => (position ? `Waits for ${plural(position, "recording")} before it` : "Begins soon"),
    running: () => `Transcribing: ${reached}, ${plural(notes, "note")}`,
    done: () => `Done: ${plural(notes, "note")}`,
    failed: () => reason(job),
    cancelled: () => "Cancelled",
    forgotten: () => "Done, but the program has forgotten the result: nothing more can be downloaded",
  }[state]();
};

const changed = (job) => {
  const { row, state } = job;
  row.state.textContent = stateText(job);
  row.item.classList.toggle("failed", state === "failed");
  row.bar.hidden = !job.isActive;
  if (state === "running" && job.seconds_total) row.bar.value = job.seconds_done / job.seconds_total;
  else row.bar.removeAttribute("value");
  row.cancel.hidden = !(job.isActive || state === "waiting");
  row.again.hidden = !["failed", "cancelled", "forgotten"].includes(state);
  row.remove.hidden = job.isActive;
  if (job.announced !== state) {
    job.announced = state;
    if (state !== "waiting") byId("status").textContent = `${job.name}: ${stateText(job)}`;
  }
  if (job === chosen) showResult();
};

const played = (job, notes) => {
  if (!notes) {
    if (job === chosen) setTracks();
    return;
  }
  const known = roll.tracks.length;
  for (const [track, note] of notes) {
    if (job === chosen) player.addNote(track, note); else track.add(...note);
  }
  if (job !== chosen) return;
  if (job.tracks.size !== known) setTracks(); else measure();
  if (isFollowing && !player.playing) roll.show(job.frontier);
};

// ---- The chosen one ----------------------------------------------------------
const choose = (job) => {
  chosen?.row.item.classList.remove("chosen");
  chosen?.row.pick.removeAttribute("aria-current");
  chosen = job;
  byId("result").hidden = true;
  const old = byId("recording");
  const recording = element("audio", { id: "recording", preload: "auto" });
  old.replaceWith(recording);
  player.setRecording(job ? recording : null);
  old.removeAttribute("src");
  if (!job) return;
  job.row.item.classList.add("chosen");
  job.row.pick.setAttribute("aria-current", "true");
  byId("result-heading").textContent = job.name;
  byId("unplayable").hidden = true;
  showFader(true);
  recording.addEventListener("loadedmetadata", measure);
  recording.src = job.address;
  player.position = 0;
  isFollowing = job.state !== "done";
  sheets = null;
  byId("sheets").replaceChildren();
  setTracks();
  roll.isNew = true;
  moved(0);
  showResult();
};

const setTracks = () => {
  const tracks = chosen.ordered;
  findSilent(tracks);
  player.setTracks(tracks);
  roll.setTracks(tracks);
  measure();
};

// Takes the length of what there is, which grows as notes come.
const measure = () => {
  const { duration } = byId("recording");
  const start = Number(chosen.options.start ?? 0);
  const known = Number.isFinite(duration) ? duration : start + (chosen.seconds_total ?? 0);
  const length = Math.max(0.1, known, chosen.end), before = roll.duration;
  player.duration = roll.duration = length;
  roll.frontier = chosen.isActive ? chosen.frontier ?? start : null;
  byId("seek").max = length;
  if (length !== before && !player.position && !roll.scroller.scrollLeft) roll.isNew = true;
  roll.layOut();
  showClock();
};

const showResult = () => {
  const { state, warnings, tracks } = chosen;
  const isDone = state === "done";
  byId("result").hidden = !tracks.size && ["failed", "cancelled"].includes(state);
  byId("warnings").hidden = !warnings.length;
  byId("warnings").replaceChildren(...warnings.map((text) => element("li", { textContent: text })));
  byId("empty").hidden = tracks.size > 0;
  byId("empty").textContent = isDone ? "No notes were found." : chosen.isActive ? "The first notes appear here soon." : "";
  byId("roll").hidden = !tracks.size;
  byId("saving").hidden = byId("score").hidden = !isDone;
  roll.frontier = chosen.isActive ? roll.frontier : null;
  if (isDone && chosen.shown !== state) {
    if (isFollowing && !player.playing) roll.show(player.position);
    showDownloads();
    showScore();
  }
  chosen.shown = state;
  roll.layOut();
};

const showDownloads = () => {
  const offered = Object.entries(FORMATS).filter(([format]) => chosen.formats.includes(format));
  byId("downloads").replaceChildren(...offered.map(([format, [name, title]]) => {
    const button = element("button", { type: "button", textContent: name, title });
    button.addEventListener("click", () => download(chosen, format, button));
    return button;
  }));
  byId("saved").textContent = "";
};

const download = async (job, format, button) => {
  const name = `${job.name.replace(/\.[^.]*$/, "")}.${format}`;
  button.disabled = true;
  byId("saved").textContent = `${name} is being made.`;
  try {
    const answer = await request(`/jobs/${job.id}/result?format=${format}`);
    const address = URL.createObjectURL(await answer.blob());
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    byId("saved").textContent = `${name} is in your downloads.`;
  } catch (error) {
    byId("saved").textContent = error.message;
  }
  button.disabled = false;
  button.focus();
};

const showScore = async () => {
  const job = chosen;
  byId("no-score").textContent = "";
  if (!about.score) {
    byId("no-score").textContent = "Sheet music needs further packages, which are not installed: the extra [score] of mt3.";
    return;
  }
  if (!job.tracks.size) return;
  byId("no-score").textContent = "The score is being drawn.";
  let problem = "";
  try {
    job.score ??= await (await request(`/jobs/${job.id}/score`)).json();
  } catch (error) {
    problem = error.message;
  }
  if (job !== chosen) return;
  byId("no-score").textContent = problem;
  if (problem) return;
  sheets = new Sheets(byId("sheets"), { ...job.score, seek: go });
  sheets.follow(player.position);
};

// ---- Playback ----------------------------------------------------------------
const showClock = () => {
  const now = clockTime(player.position, 1);
  byId("clock").textContent = `${now} of ${clockTime(player.duration, 1)}`;
  byId("seek").value = player.position;
  byId("seek").setAttribute("aria-valuetext", now);
};

const moved = (seconds) => {
  roll.position = seconds;
  sheets?.follow(seconds);
  showClock();
};

const go = (seconds) => {
  isFollowing = false;
  player.seek(seconds);
};

const showFader = (usable) => {
  byId("balance").disabled = !usable;
  byId("balance").parentNode.classList.toggle("unused", !usable);
};

const showBalance = () => {
  const value = Number(byId("balance").value);
  player.balance = value / 100;
  byId("balance").setAttribute("aria-valuetext", value === 50 ? "both alike"
    : `${100 - value}% recording, ${value}% transcription`);
  player.mix();
};

const player = new Player(about, {
  changed: (playing) => { byId("play").textContent = playing ? "Pause" : "Play"; },
  moved: (seconds) => { roll.show(seconds); moved(seconds); },
  failed: () => { byId("unplayable").hidden = false; showFader(false); },
});
const roll = new Roll(byId("roll"), {
  kit: about,
  seek: go,
  mixChanged: () => player.mix(),
  keyPressed: (event) => press(event),
});

const press = (event) => {
  if (!chosen) return;
  player.press(event);
  if (event.defaultPrevented) isFollowing = false;
};

// ---- Options -----------------------------------------------------------------
const readTime = (id, name) => {
  const text = byId(id).value.trim().replace(",", ".");
  if (!text) return null;
  if (!/^(\d+:){0,2}\d+(\.\d+)?$/.test(text)) {
    throw new Error(`${name} is “${text}”. A time is written like 1:30, or in seconds.`);
  }
  return text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
};

const readOptions = () => {
  const options = {};
  const names = [...document.querySelectorAll("#families input:checked")].map((box) => box.value);
  if (names.length) options.instruments = names.join(",");
  if (byId("sensitivity").value !== "0.5") options.sensitivity = byId("sensitivity").value;
  const start = readTime("start", "The beginning"), end = readTime("end", "The end");
  if (start) options.start = start;
  if (end !== null) options.end = end;
  if (end !== null && end <= (start ?? 0)) throw new Error("The part ends before it begins.");
  const tempo = byId("tempo").value.trim().replace(",", ".");
  if (tempo && !(Number(tempo) > 0)) throw new Error(`The tempo is “${tempo}”; a number is expected.`);
  if (tempo) options.tempo = tempo;
  return options;
};

// ---- The page ----------------------------------------------------------------
const describe = () => {
  if (!LOCAL.includes(location.hostname)) {
    for (const place of document.querySelectorAll(".where")) {
      place.textContent = `the computer ${location.hostname}`;
    }
  }
  byId("files-hint").textContent += ` Up to ${about.max_megabytes} MB each.`;
  byId("kept").textContent = `${about.minutes_kept} minutes`;
  byId("made").textContent = `mt3 ${about.version}, model ${about.model}`;
  for (const name of [...about.families, "Drums"]) {
    const box = element("input", { type: "checkbox", value: name.toLowerCase() });
    byId("families").append(element("label", {}, box, name));
  }
};

const field = byId("files");
field.addEventListener("change", () => {
  add(field.files);
  field.value = ""; // so that the same file can be chosen again
});
byId("options").addEventListener("submit", (event) => event.preventDefault());

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (holdsFiles(event)) document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (holdsFiles(event)) add(event.dataTransfer.files);
});

document.addEventListener("keydown", (event) => {
  if (!event.target.closest("a, button, input, select, summary, [tabindex]")) press(event);
});
byId("play").addEventListener("click", () => { isFollowing = false; player.toggle(); });
byId("seek").addEventListener("input", () => go(Number(byId("seek").value)));
byId("balance").addEventListener("input", showBalance);
byId("zoom-in").addEventListener("click", () => roll.zoom(1.5));
byId("zoom-out").addEventListener("click", () => roll.zoom(1 / 1.5));
byId("fit").addEventListener("click", () => roll.setScale(0));
for (const act of ["wheel", "pointerdown", "touchstart"]) {
  roll.scroller.addEventListener(act, () => { isFollowing = false; }, { passive: true });
}

setInterval(() => { for (const job of jobs) job.keep(); }, KEEP_SECONDS * 1000);
addEventListener("beforeunload", (event) => {
  if (jobs.some((job) => job.isActive)) event.preventDefault();
});
addEventListener("pagehide", (event) => {
  if (!event.persisted) jobs.forEach((job) => job.forget());
});

describe();
showBalance();
field.disabled = false;
