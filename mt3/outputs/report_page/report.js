// What is the report's own: its data, the table of notes.
import { FIELDS, Track, clockTime, element, pitchName } from "./tracks.js";
import { Player } from "./player.js";
import { Roll } from "./roll.js";
import { Sheets } from "./sheets.js";

const PAGE_ROWS = 100;
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const confidence = new Map();
const tracks = data.instruments.map((instrument) => {
  const track = new Track(instrument);
  confidence.set(track, instrument.confidence);
  return track;
});

const report = () => {
  let sheets = null;
  const moved = (seconds) => {
    roll.position = seconds;
    byId("clock").textContent = `${clockTime(seconds, 1)} of ${clockTime(data.duration, 1)}`;
    sheets?.follow(seconds);
  };
  const player = new Player(data, {
    changed: (playing) => { byId("play").textContent = playing ? "Pause" : "Play"; },
    moved: (seconds) => { roll.show(seconds); moved(seconds); },
  });
  const go = (seconds) => player.seek(seconds);
  const roll = new Roll(byId("roll"), {
    kit: data,
    seek: go,
    mixChanged: () => player.mix(),
    keyPressed: (event) => player.press(event),
  });
  player.duration = roll.duration = data.duration;
  player.setTracks(tracks);
  byId("play").addEventListener("click", () => player.toggle());
  byId("zoom-in").addEventListener("click", () => roll.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => roll.zoom(1 / 1.5));
  byId("fit").addEventListener("click", () => roll.setScale(0));

  const drawn = [...document.querySelectorAll(".sheet")];
  if (drawn.length) {
    const pages = drawn.map((sheet, i) => ({ sheet, bars: data.pages[i] }));
    sheets = new Sheets(byId("sheets"), { pages, bars: data.bars, seek: go });
  }

  const filter = byId("filter");
  filter.append(element("option", { value: "all", textContent: "All" }));
  tracks.forEach((track, i) => {
    filter.append(element("option", { value: String(i), textContent: track.name }));
  });
  let rows = [], page = 0;
  const fillTable = () => {
    const wanted = filter.value === "all" ? tracks : [tracks[Number(filter.value)]];
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
      const jump = element("button", {
        type: "button", className: "link", textContent: clockTime(start, 2),
        "aria-label": `Go to ${clockTime(start, 2)} in the piano roll`,
      });
      jump.addEventListener("click", () => go(start));
      const what = track.isDrum ? data.drum_lanes[data.drum_lane_of[pitch]] : pitchName(pitch);
      const cells = [jump, clockTime(end, 2), `${(end - start).toFixed(2)} s`,
        `${what} (${pitch})`, velocity, confidence.get(track)[i / FIELDS] ?? "-", track.name];
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

  for (const id of ["tools", "roll", "hint", "notes"]) byId(id).hidden = false;
  roll.setTracks(tracks);
  moved(0);
  fillTable();
};

if (tracks.length) report(); else byId("empty").hidden = false;
