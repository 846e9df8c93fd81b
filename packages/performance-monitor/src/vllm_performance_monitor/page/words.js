// Numbers and times as people read them. What was not measured is null, and is never shown as 0.

export const NOTHING = "–";
const GIB = 1024 ** 3;

const rounded = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 0.25, 80, 12,000. */
export function number(value) {
  if (value === null || value === undefined) return NOTHING;
  return Math.abs(value) >= 1000 ? whole.format(value) : rounded.format(value);
}

export const gib = (bytes) => (bytes === null || bytes === undefined ? NOTHING : (bytes / GIB).toFixed(1));

/** 0 s, 4.2 s, 34 s, 2 min 05 s, 3 h 10 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 59.5) return `${seconds.toFixed(0)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  const rest = Math.round(seconds) % 60;
  if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

const MINUTES = { hour: "2-digit", minute: "2-digit" };
const SECONDS = { ...MINUTES, second: "2-digit" };
const clocks = {
  minutes: new Intl.DateTimeFormat("en-GB", MINUTES),
  seconds: new Intl.DateTimeFormat("en-GB", SECONDS),
  zoned: new Intl.DateTimeFormat("en-GB", { ...SECONDS, timeZoneName: "short" }),
  day: new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short" }),
};

/** The time on the wall where the browser is. */
export const clock = (unixSeconds, precision = "seconds") => clocks[precision].format(new Date(unixSeconds * 1000));

/** `14:03:05`, with the day when that is another one. */
export function moment(unixSeconds) {
  const isToday = clock(unixSeconds, "day") === clock(Date.now() / 1000, "day");
  return isToday ? clock(unixSeconds) : `${clock(unixSeconds, "day")} ${clock(unixSeconds)}`;
}

export const count = (many, one, more = `${one}s`) => `${many} ${many === 1 ? one : more}`;
