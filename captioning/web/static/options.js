// The form of options: checked here, in its own words.

const form = document.querySelector("#options");
const details = form.closest("details");
const numbers = [...form.querySelectorAll("input[type=number]")];

/** The options that were given; null, with the focus in the first field that is wrong, if one is. */
export function checkedOptions() {
  const wrong = numbers.filter((field) => !check(field));
  if (wrong.length === 0) return Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim()));
  details.open = true;
  wrong[0].focus();
  return null;
}

function check(field) {
  const { valid, stepMismatch } = field.validity;
  const label = field.labels[0].textContent;
  const range = `${label}: ${field.min} to ${field.max}${stepMismatch ? ", without a fraction" : ""}`;
  field.ariaInvalid = String(!valid);
  document.getElementById(field.getAttribute("aria-describedby")).textContent = valid ? "" : range;
  return valid;
}

form.addEventListener("change", (event) => numbers.includes(event.target) && check(event.target));
form.addEventListener("input", (event) => event.target.ariaInvalid === "true" && check(event.target));
form.addEventListener("submit", (event) => {
  event.preventDefault(); // Enter in a field: there is nothing to send
  checkedOptions();
});
