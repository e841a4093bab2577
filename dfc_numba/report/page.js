"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ink = "#1b1f24", grid = "#e6eaee";
  const settings = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
  };

  const mostNamed = 12;  // lines in a legend; the pointer shows the names of more

  function fail(text) {
    const place = document.getElementById("failure");
    place.textContent = text;
    place.hidden = false;
  }

  // plotly.js is in the page as gzip; its text runs because its hash is in the policy of the page
  async function loadLibrary() {
    if (!("DecompressionStream" in window))
      throw new Error("this browser is too old to unpack plotly.js (Chrome 80, Firefox 113 or Safari 16.4 can)");
    const bytes = Uint8Array.from(atob(data.library), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("plotly.js did not start");
  }

  function trace(line, shared) {
    return {
      x: line.x || shared, y: line.y, name: line.name, showlegend: line.name !== "", type: "scatter",
      mode: line.points ? "markers" : line.y.length < 2 ? "markers" : line.y.length <= 20 ? "lines+markers" : "lines",
      opacity: line.faint ? 0.35 : 1, marker: { size: line.points ? 8 : 4, color: line.colour },
      line: { color: line.colour, dash: line.dash, width: line.faint ? 1 : line.thick ? 3 : 2 },
      hovertemplate: "%{x:.5~g}: %{y:.5~g}" + (line.name ? "  " + line.name : "") + "<extra></extra>",
    };
  }

  const longest = (chart, shared) => Math.max(...chart.lines.map(line => (line.x || chart.shared || shared).length));

  // over a few decades, 1, 2 and 5 of each have a number
  function sparse(chart) {
    const values = chart.lines.flatMap(line => line.y).filter(value => value > 0);
    return Math.max(...values) < 1000 * Math.min(...values) ? { dtick: "D2" } : {};
  }

  function draw(place, chart, shared) {
    const axis = { gridcolor: grid, zerolinecolor: grid, automargin: true, exponentformat: "power" };
    const whole = chart.x === "epoch" ? { tickformat: "d", ...(longest(chart, shared) < 12 ? { dtick: 1 } : {}) } : {};
    const logarithmic = chart.log ? { type: "log", ...sparse(chart) } : {};
    const layout = {
      title: { text: chart.title, font: { size: 15 }, x: 0.01, xanchor: "left" }, margin: { l: 8, r: 12, t: 38, b: 84 },
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif", size: 12, color: ink },
      xaxis: { ...axis, ...whole, title: { text: chart.x } },
      yaxis: { ...axis, ...logarithmic, title: { text: chart.y } }, hovermode: "closest",
      showlegend: chart.lines.filter(line => line.name).length <= mostNamed,
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 11 } },
    };
    Plotly.react(place, chart.lines.map(line => trace(line, chart.shared || shared)), layout, settings);
  }

  function browse(root, records) {
    const [record, sample, layer] = ["record", "sample", "layer"].map(name => root.querySelector("." + name));
    const charts = root.querySelector(".charts");

    function bound(input, count) {
      input.max = Math.max(0, count - 1);
      input.value = Math.min(input.value, input.max);
      input.disabled = count < 2;
    }

    function show() {
      const chosen = records[record.value];
      bound(sample, chosen.samples.length);
      bound(layer, chosen.layers.length);
      const one = chosen.samples[sample.value];
      const shown = [...one.charts, ...(one.layers[layer.value] || [])];
      root.querySelector(".sample-name").textContent = one.name;
      root.querySelector(".layer-name").textContent = (chosen.layers[layer.value] || "").replace("layer ", "");
      while (charts.children.length > shown.length) {
        Plotly.purge(charts.lastElementChild);
        charts.lastElementChild.remove();
      }
      while (charts.children.length < shown.length) {
        const figure = document.createElement("figure");
        figure.className = "chart";
        charts.append(figure);
      }
      shown.forEach((chart, number) => draw(charts.children[number], chart, chosen.time));
    }

    for (const input of [record, sample, layer]) input.addEventListener("input", show);
    show();
  }

  function drawAll() {
    data.sections.forEach((section, number) => {
      const root = document.getElementById("section-" + number);
      root.querySelectorAll(".static .chart").forEach(place => draw(place, section.charts[place.dataset.chart]));
      if (section.browser) browse(root.querySelector(".browser"), section.browser.records);
    });
  }

  // on paper two charts fit beside each other; what is folded stays so
  const paper = { width: 330, height: 240 };
  const resize = size => document.querySelectorAll(".chart.js-plotly-plot").forEach(
    place => Plotly.relayout(place, size ? { ...size, autosize: false } : { width: null, height: null, autosize: true }));
  window.addEventListener("beforeprint", () => resize(paper));
  window.addEventListener("afterprint", () => resize(null));

  loadLibrary().then(drawAll).then(() => { document.body.dataset.ready = "true"; }, error => fail("No charts: " + error.message));
})();
