// Sorting of the tables, and downloads of what tables and figures show.
(() => {
  "use strict";

  const NULL = "\u2013"; // the dash of a cell that has no value

  // Tables. A cell's number is its `data-value`, or else what its text begins with: 1,234 of
  // 2,000; <0.001; 0.42 ± 0.1. A date or a name that begins with digits is no number.
  const LEADING = /^[<>]?\s*([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\*?(?=$|[\s,;(%\u2013])/i;

  function valueOf(cell) {
    const text = cell.textContent.trim();
    if (text === NULL || text === "") return { text: "" };
    if (cell.dataset.value) return { text: cell.dataset.value, number: Number(cell.dataset.value) };
    const found = LEADING.exec(text);
    return found ? { text, number: Number(found[1].replaceAll(",", "")) } : { text };
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.tBodies].map((body) => [body, linesOf(body)]);
    heads.forEach((head, column) => {
      const button = newButton("", "sort by this column");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "" }[head.ariaSort] ?? "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        for (const [body, rows] of bodies) {
          body.append(...(next ? sorted(rows, column, next) : rows));
        }
      });
    });
  }

  const linesOf = (body) => [...body.rows].filter((row) => !row.classList.contains("group"));

  function sorted(rows, column, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    const lines = rows.map((row) => [row, valueOf(row.cells[column])]);
    const known = lines.filter(([, value]) => value.text !== "");
    const numeric = known.every(([, value]) => value.number !== undefined);
    const compare = (a, b) =>
      numeric ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true });
    known.sort(([, a], [, b]) => sign * compare(a, b));
    return [...known, ...lines.filter(([, value]) => value.text === "")].map(([row]) => row);
  }

  function contentOf(table) {
    const grouped = table.querySelector("tr.group") !== null;
    const heads = table.tHead
      ? [...table.tHead.rows[0].cells].map((head) => head.textContent.trim())
      : ["name", "value"];
    const lines = [[...(grouped ? ["group"] : []), ...heads]];
    for (const body of table.tBodies) {
      const group = grouped ? [body.querySelector("tr.group").textContent.trim()] : [];
      for (const row of linesOf(body)) {
        lines.push([...group, ...[...row.cells].map((cell) => valueOf(cell).text)]);
      }
    }
    return lines;
  }

  // The traces of a figure as lines of numbers.
  const TYPED = {
    i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array,
    u4: Uint32Array, f4: Float32Array, f8: Float64Array,
  };

  function listOf(values) {
    if (!values?.bdata) return values ?? null;
    const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
    const exact = values.dtype !== "f4"; // seven digits are all that a float32 holds
    const flat = [...new TYPED[values.dtype](bytes.buffer)].map((number) =>
      Number.isFinite(number) ? (exact ? number : Number(number.toPrecision(7))) : null);
    const width = Number(String(values.shape ?? "").split(",")[1]);
    if (!width) return flat;
    return Array.from(
      { length: flat.length / width }, (_, i) => flat.slice(i * width, (i + 1) * width));
  }

  function coordinate(trace, axis, count) {
    const listed = listOf(trace[axis]);
    if (listed) return listed;
    const [start, step] = [trace[`${axis}0`] ?? 0, trace[`d${axis}`] ?? 1];
    return Array.from({ length: count }, (_, i) =>
      typeof start === "string"
        ? new Date(Date.parse(start) + i * step).toISOString().slice(0, 10)
        : start + i * step);
  }

  // plotly reads markup in texts: what a reader sees of them. A parsed document runs nothing.
  const plain = (text) =>
    /[<&]/.test(text) ? new DOMParser().parseFromString(text, "text/html").body.textContent : text;

  // Where a trace is drawn: the headings above and beside its panel, or else its y axis.
  function panelOf(trace, { annotations = [], ...layout }) {
    const axis = (letter) =>
      layout[(trace[`${letter}axis`] ?? letter).replace(letter, `${letter}axis`)];
    const [[left, right], [bottom, top]] = ["x", "y"].map(
      (letter) => axis(letter)?.domain ?? [0, 1]);
    const close = 1e-6;
    const near = (a, b) => Math.abs(a - b) < close;
    const notes = annotations.filter((note) => note.xref === "paper" && note.yref === "paper");
    const above = notes.filter(({ x, y }) => near(x, (left + right) / 2) && y > top - close);
    const beside = notes.filter(({ x, y }) => near(y, (bottom + top) / 2) && x > right - close);
    const [heading] = above.sort((a, b) => a.y - b.y);
    const found = [heading, ...beside].filter(Boolean).map((note) => plain(note.text));
    return found.join(", ") || plain(axis("y")?.title?.text ?? "");
  }

  // The choices of a figure's list that show a trace; nothing where all of them do.
  function choiceOf(place, { updatemenus = [] }) {
    const buttons = updatemenus.flatMap((menu) => menu.buttons);
    const showing = buttons.filter((button) => button.args[1][place]);
    if (showing.length === buttons.length) return "";
    return showing.map(({ label }) => plain(label)).join(", ");
  }

  function tracesOf({ data, layout }) {
    const columns = {
      choice: data.map((_, place) => choiceOf(place, layout)),
      panel: data.map((trace) => panelOf(trace, layout)),
      trace: data.map((trace, place) => plain(trace.name ?? `trace ${place}`)),
    };
    const telling = Object.keys(columns).filter(
      (name) => name === "trace" || new Set(columns[name]).size > 1);
    const deep = data.some((trace) => trace.z);
    const lines = [[...telling, "x", "y", ...(deep ? ["z"] : [])]];
    data.forEach((trace, place) => {
      const name = telling.map((column) => columns[column][place]);
      const add = (...values) =>
        lines.push([...name, ...values.map((v) => (typeof v === "string" ? plain(v) : v))]);
      const [across, along, z] = [trace.x, trace.y, trace.z].map(listOf);
      const count = (across ?? along ?? []).length;
      const x = coordinate(trace, "x", z ? z[0].length : count);
      const y = coordinate(trace, "y", z ? z.length : count);
      if (z) z.forEach((row, i) => row.forEach((value, j) => add(x[j], y[i], value)));
      else x.forEach((value, i) => add(value, y[i], ...(deep ? [""] : [])));
    });
    // What stands between the pieces of a line that is broken has no place.
    return lines.filter((line) => line.some((value, i) => i >= telling.length && value !== null));
  }

  // A spreadsheet would run a text that begins like a formula; -0.3 and -0.3 to 0.2 are none. Texts
  // are quoted, since some programs split lines at other signs than commas.
  function field(value) {
    const text = String(value ?? "");
    if (/^-?[\d.]*(e[-+]?\d+)?$/i.test(text)) return text;
    const formula = /^\s*[=+\-@]/.test(text) && !/^[-+]?[\d.][\d.,\se()\u00b1to-]*$/.test(text);
    return `"${(formula ? `'${text}` : text).replaceAll('"', '""')}"`;
  }

  function download(name, lines) {
    const text = lines.map((line) => line.map(field).join(",") + "\r\n").join("");
    const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    const link = Object.assign(document.createElement("a"), { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000); // a busy browser starts late
  }

  function newButton(text, label) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.textContent = text;
    if (label) button.title = label;
    return button;
  }

  function addDownload(before, name, what, lines) {
    const button = newButton("CSV", `download this ${what} as CSV`);
    button.className = "download";
    const section = before.closest("section");
    const words = [document.title, section.id, name].join(" ").toLowerCase();
    const file = words.match(/[a-z0-9]+/g).join("-") + ".csv";
    button.addEventListener("click", () => download(file, lines()));
    before.before(button);
  }

  addEventListener("DOMContentLoaded", () => {
    for (const section of document.querySelectorAll("section")) {
      section.querySelectorAll("table").forEach((table, place) => {
        if (table.tHead) makeSortable(table);
        addDownload(table.parentElement, place ? String(place + 1) : "", "table",
          () => contentOf(table));
      });
      for (const script of section.querySelectorAll("script[data-figure]")) {
        addDownload(script.parentElement, script.previousElementSibling.id, "figure's numbers",
          () => tracesOf(JSON.parse(script.textContent)));
      }
    }
  });
})();
