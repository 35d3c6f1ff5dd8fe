"use strict";

// A link to what lies in a folded section unfolds it.
function unfold() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  for (let part = place; part; part = part.parentElement) {
    if (part.tagName === "DETAILS") part.open = true;
  }
  place.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();

// The explorer. Windows are read, never computed: Python found them (analysis/page_explorer.py).
const LEFT = 58, RIGHT = 550, TOP = 36, BOTTOM = 232;

function make(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function draw(svg, tag, attributes, text) {
  const made = document.createElementNS(svg.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  svg.append(made);
}

function count(n, word) {
  return `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
}

function write(value) {
  return value.toFixed(2).replace("-", "−");
}

function picture(about, query, rank, zone) {
  const [id, score, relevance] = query.images[rank];
  return named(about, id, rank === query.target_rank ? "target" : zone,
    [`rank ${rank}`, `score ${write(score)}`, ...(relevance === null ? [] : [`rel. ${write(relevance)}`])]);
}

function named(about, id, zone, notes) {
  const uri = about.thumbnails[id] || "", figure = make("figure", undefined, zone);
  const image = make(uri.startsWith("data:image/") ? "img" : "span");
  if (image.tagName === "IMG") {
    image.src = uri;
    image.alt = `${zone}: ${notes.join(", ")}`;
  } else {
    image.className = "named";
    image.textContent = id;
  }
  figure.append(image);
  const shown = zone === "target" && notes[0] !== "target" ? ["target", ...notes] : notes;
  for (const note of shown) figure.append(make("div", note));
  return figure;
}

function ticks(size, spread) {
  const even = [0, 1, 2, 3, 4].map((part) => Math.round(part * (size - 1) / 4));
  return spread ? [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter((r) => r < size) : even;
}

function plot(svg, about, query, curve, [first, second], spread) {
  const ranks = about.ranks[query.category], size = query.size;
  const place = (rank) => spread ? Math.log1p(Math.max(rank, 0)) / Math.log1p(size) : Math.max(rank, 0) / size;
  const x = (rank) => LEFT + (RIGHT - LEFT) * place(rank);
  const likely = (score) => 1 / (1 + Math.exp((query.target_score - score) / about.temperature));
  const measured = curve === "cosine" ? (score) => score : likely;
  const values = query.scores.map(measured);
  const low = curve === "cosine" ? Math.min(...values) : 0, high = Math.max(...values);
  const y = (value) => BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low || 1);
  svg.replaceChildren();
  if (first >= 0) {
    const width = Math.max(x(second + 0.5) - x(first + 0.5), 4);
    const left = Math.min(x(first + 0.5), RIGHT - width);
    draw(svg, "rect", {class: "found", x: left, y: TOP, width, height: BOTTOM - TOP});
    draw(svg, "path", {d: `M${left + width / 2} ${TOP}l-6 -9h12z`, fill: "var(--inside)"});
  }
  draw(svg, "path", {class: "axis", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}`});
  for (const rank of ticks(size, spread)) {
    draw(svg, "path", {class: "axis", d: `M${x(rank)} ${BOTTOM}v4`});
    draw(svg, "text", {x: x(rank), y: BOTTOM + 21, "text-anchor": "middle"}, rank.toLocaleString("en"));
  }
  for (const value of [low, (low + high) / 2, high]) {
    draw(svg, "path", {class: "axis", d: `M${LEFT} ${y(value)}h-4`});
    draw(svg, "text", {x: LEFT - 7, y: y(value) + 4, "text-anchor": "end"}, write(value));
  }
  const label = curve === "cosine" ? "Score (cosine)" : "1 − P: probability of an image over the target";
  draw(svg, "text", {x: (LEFT + RIGHT) / 2, y: BOTTOM + 42, "text-anchor": "middle"}, "Rank (0 = best)");
  draw(svg, "text", {x: 0, y: 15}, label);
  const points = values.map((value, i) => `${x(ranks[i]).toFixed(1)} ${y(value).toFixed(1)}`);
  draw(svg, "path", {class: "line", d: `M${points.join("L")}`});
  const at = x(query.target_rank), up = y(measured(query.target_score)), late = at > RIGHT - 70;
  draw(svg, "circle", {class: "star", cx: at, cy: up, r: 6});
  draw(svg, "text", {class: "star-name", x: at + (late ? -10 : 10), y: up - 9,
    "text-anchor": late ? "end" : "start"}, "target");
}

function tell(query, [first, second], strip) {
  const size = query.size;
  if (first < 0) return "No pair of drops within this search window: the query draws uniform negatives.";
  const begins = (100 * (first + 1) / size).toFixed(1);
  let told = `${count(second - first, "image")}, ranks ${first + 1} to ${second} of ${size.toLocaleString("en")}; ` +
    `the window begins at ${begins} % of the ranking (target at rank ${query.target_rank}).`;
  if (strip.relevance !== null) {
    told += ` Mean graded relevance inside ${write(strip.relevance)}, in the corpus ${write(query.relevance)}.`;
  }
  return told;
}

function explore(root) {
  const [about, ...queries] = JSON.parse(root.querySelector("script").textContent);
  const find = (selector) => root.querySelector(selector);
  const chosen = find(".query"), slider = find(".window"), scale = find(".scale");
  const rules = Object.fromEntries(about.groups);
  for (const [group] of about.groups) {
    const part = make("optgroup");
    part.label = group;
    queries.forEach((query, place) => {
      if (query.group !== group) return;
      const option = make("option", `${query.category}: ${query.caption}`);
      option.value = place;
      part.append(option);
    });
    if (part.children.length) chosen.append(part);
  }
  chosen.selectedIndex = 0;
  slider.max = about.windows.length - 1;
  slider.value = slider.max;

  function show() {
    const query = queries[chosen.value], place = Number(slider.value), ranks = about.windows[place];
    const words = ranks === null ? "the whole ranking" : `${count(ranks, "rank")} after the target`;
    find("output").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    find(".why").textContent = `${query.group}: ${rules[query.group]}`;
    find(".triplet").replaceChildren(named(about, query.reference, "reference", ["reference"]),
      make("p", query.caption), make("span", "→"), named(about, query.target, "target", ["target", `rank ${query.target_rank}`]));
    for (const part of root.querySelectorAll(".curve")) {
      const curve = part.dataset.curve, drops = query.windows[curve][place];
      const strip = query.strips[drops.join("-")], svg = part.querySelector("svg");
      const told = tell(query, drops, strip);
      plot(svg, about, query, curve, drops, scale.value === "spread");
      svg.setAttribute("aria-label", `${part.querySelector("h3").textContent}: ${told}`);
      part.querySelector(".told").textContent = told;
      for (const row of part.querySelectorAll("[data-zone]")) {
        const zone = row.dataset.zone, shown = strip ? strip[zone] : [];
        row.replaceChildren(...shown.map((rank) => picture(about, query, rank, zone)));
        if (!shown.length) row.append(make("span", "none", "small"));
      }
    }
  }
  for (const control of [chosen, slider, scale]) control.addEventListener("input", show);
  show();
}
document.querySelectorAll(".explorer").forEach(explore);
