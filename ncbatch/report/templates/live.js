{
  const live = document.querySelector("#live"), part = name => live.querySelector(name);
  const add = (parent, tag, text, kind) => {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text;  // never as HTML: names and messages come from files
    if (kind) made.className = kind;
    return made;
  };
  const show = now => {
    part(".state").textContent = now.state;
    part(".told").textContent = now.told;
    part("progress").value = now.fraction;
    part(".cards").replaceChildren();
    for (const {title, value, note, tone} of now.cards) {
      const card = add(part(".cards"), "div", "", "card");
      add(card, "span", title);
      add(card, "b", value, tone);
      add(card, "span", note);
    }
    part(".flights").hidden = now.in_flight.length === 0;
    const body = part(".flights tbody");
    body.replaceChildren();
    for (const {worker, unit, images, fraction, time} of now.in_flight) {
      const row = body.insertRow();
      add(row, "td", worker, "text key");
      add(row, "td", unit, "text key");
      add(row, "td", images, "number");
      const bar = add(add(row, "td", "", "text"), "progress", "");
      bar.max = 1;
      if (fraction !== null) bar.value = fraction;
      add(row, "td", time, "number");
    }
    part(".notes").replaceChildren();
    for (const note of now.notes) add(part(".notes"), "li", note);
    part(".when").textContent = now.when;
    if (now.page > Number(live.dataset.page)) location.reload();  // browsers keep the place on the page
  };
  const ask = async () => {
    try {
      show(await (await fetch("status.json", {cache: "no-store"})).json());
    } catch {
      part(".when").textContent = "ncbatch watch --web has ended; this is what it showed last.";
    }
    setTimeout(ask, 2000);
  };
  ask();
}
