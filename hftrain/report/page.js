"use strict";
// Tab comes to a chart; there the arrow keys, Home and End go through its places, and Escape leaves.
function byKeys(svg, count, at, go, hide) {
  svg.tabIndex = 0;
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) go(at()); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const to = {ArrowLeft: at() - 1, ArrowUp: at() - 1, ArrowRight: at() + 1, ArrowDown: at() + 1, Home: 0, End: count - 1}[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    go(Math.min(Math.max(to, 0), count - 1));
  });
}
// A line at the nearest x and the value of each series there, under the pointer or by the arrow keys. The charts are
// complete without it.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const chart = JSON.parse(svg.dataset.chart);
  const figure = svg.closest("figure");
  const draw = name => svg.appendChild(document.createElementNS(svg.namespaceURI, name));
  const cursor = draw("path");
  const dots = chart.series.map(series => draw("circle"));
  const tip = document.createElement("div");
  cursor.setAttribute("class", "cursor");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const atX = value => chart.left + (value - chart.x[0]) / (chart.x[1] - chart.x[0]) * (chart.right - chart.left);
  const scale = chart.log ? Math.log10 : value => value;
  const atY = value => chart.bottom - (scale(value) - scale(chart.y[0])) / (scale(chart.y[1]) - scale(chart.y[0])) * (chart.bottom - chart.top);
  const number = value => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
    if (size >= 1e-3 && size < 1e7) return value.toLocaleString("en", {maximumSignificantDigits: size < 1000 ? 4 : undefined, maximumFractionDigits: size < 1000 ? undefined : 0});
    return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  };
  const nearest = (values, wanted) => {
    let low = 0, high = values.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle; else high = middle;
    }
    return wanted - values[low] < values[high] - wanted ? low : high;
  };
  const hide = () => { tip.hidden = true; cursor.removeAttribute("d"); dots.forEach(dot => dot.removeAttribute("r")); };
  const densest = chart.series.reduce((one, other) => other.x.length > one.x.length ? other : one);
  let place = densest.x.length - 1;
  const point = event => {
    const matrix = svg.getScreenCTM();
    const inside = Math.min(Math.max((event.clientX - matrix.e) / matrix.a, chart.left), chart.right);
    const wanted = chart.x[0] + (inside - chart.left) / (chart.right - chart.left) * (chart.x[1] - chart.x[0]);
    place = nearest(densest.x, wanted);
    show();
  };
  const show = () => {
    const matrix = svg.getScreenCTM(), x = densest.x[place];
    cursor.setAttribute("d", `M${atX(x)} ${chart.top}V${chart.bottom}`);
    tip.replaceChildren(Object.assign(document.createElement("b"), {textContent: `${chart.xLabel} ${number(x)}`}));
    for (const [place, series] of chart.series.entries()) {
      const index = nearest(series.x, x), value = series.y[index];
      const line = document.createElement("div");
      const where = series.x[index] === x ? "" : ` (at ${number(series.x[index])})`;
      line.textContent = `${series.name} ${value === null ? "not finite" : number(value)}${where}`;
      tip.append(line);
      const dot = {class: `s${series.colour}`, cx: atX(series.x[index]), cy: value === null ? 0 : atY(value), r: value === null ? 0 : 3.5};
      for (const name in dot) dots[place].setAttribute(name, dot[name]);
    }
    tip.hidden = false;
    const box = figure.getBoundingClientRect();
    const at = matrix.e + atX(x) * matrix.a - box.left;
    tip.style.left = `${at + 12 + tip.offsetWidth > box.width ? Math.max(4, at - 12 - tip.offsetWidth) : at + 12}px`;
    tip.style.top = `${svg.getBoundingClientRect().top - box.top + 12}px`;
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", hide);
  byKeys(svg, densest.x.length, () => place, to => { place = to; show(); }, hide);
}
// Drawings: the words of the box under the pointer.
for (const svg of document.querySelectorAll("svg.drawn:not([data-chart])")) {
  const figure = svg.closest("figure");
  const tip = Object.assign(document.createElement("div"), {className: "tip", hidden: true});
  figure.append(tip);
  const show = event => {
    const words = event.target.dataset?.tip;
    tip.hidden = !words;
    if (!words) return;
    tip.textContent = words;
    const box = figure.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    tip.style.left = `${x + 14 + tip.offsetWidth > box.width ? Math.max(4, x - 14 - tip.offsetWidth) : x + 14}px`;
    tip.style.top = `${y + 14}px`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  const boxes = [...svg.querySelectorAll("[data-tip]")];
  let place = 0;
  const leave = () => { tip.hidden = true; boxes.forEach(box => box.classList.remove("at")); };
  if (boxes.length) byKeys(svg, boxes.length, () => place, to => {
    leave();
    place = to;
    boxes[place].classList.add("at");
    const box = boxes[place].getBoundingClientRect();
    show({target: boxes[place], clientX: box.right, clientY: box.bottom});
  }, leave);
}
// On paper nothing can be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
document.documentElement.dataset.ready = document.querySelectorAll("figure .tip").length;
