for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => heading.querySelector("button").addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") === "descending" || !heading.hasAttribute("aria-sort")
      && heading.classList.contains("text");
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const cell = row.cells[place], given = cell.dataset.v;
      return given !== undefined ? (given === "" ? null : Number(given)) : cell.textContent.trim();
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].map(row => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    }
  }));
}
const chooser = document.querySelector("#ranking");
if (chooser) {
  const bodies = [...document.querySelectorAll("#images tbody")];
  const choose = () => bodies.forEach(body => { body.hidden = body.dataset.ranking !== chooser.value; });
  chooser.addEventListener("change", choose);
  choose();
}
const decoders = {};
async function decode(side) {  // into PNGs, as the other sides are
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  decoders[side.model] ||= ncb.worker(bytes(ncbModels[side.model]).buffer);
  const {width, height, data} = await decoders[side.model].decode(bytes(side.file));
  for (const [part, [left, top, across, down]] of Object.entries(side.parts)) {
    const canvas = Object.assign(document.createElement("canvas"), {width: across, height: down});
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), -left, -top);
    side[part] = URL.createObjectURL(await new Promise(done => canvas.toBlob(done)));
  }
}
for (const section of document.querySelectorAll(".comparison")) {
  const sides = JSON.parse(section.querySelector("script").textContent);
  const range = section.querySelector("input");
  const show = () => {
    for (const [side, place] of [["right", 0], ["left", 1]]) {
      const chosen = sides[section.querySelector("select." + side).value];
      for (const part of ["whole", "zoom"]) {
        const image = section.querySelectorAll("." + part + " img")[place];
        if (!chosen[part]) image.removeAttribute("src");  // it is being decoded
        else if (image.getAttribute("src") !== chosen[part]) image.src = chosen[part];
        if (place) image.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
      }
    }
  };
  section.addEventListener("input", show);
  for (const image of section.querySelectorAll(".whole img")) {
    image.addEventListener("error", () => { section.querySelector(".missing").hidden = false; });
  }
  show();
  const state = section.querySelector(".decoding");
  const say = text => { state.textContent = text; state.hidden = !text; };
  const files = sides.filter(side => side.file);
  if (files.length && typeof ncb === "undefined") {
    section.querySelector(".missing").hidden = false;
  } else if (files.length) {
    const begun = files.map(side => decode(side).then(show));
    say("Decoding.");
    Promise.all(begun).then(() => say(""), error => say(`A file could not be decoded: ${error.message}.`));
  }
}
