"""Numbers as people read them."""


def num_bytes(count: float) -> str:
    """`1.61 MB`: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def count(number: float) -> str:
    """`35.7 M`: decimal prefixes, three digits."""
    for prefix in ("", " k", " M", " G", " T"):
        if abs(number) < 1000 or prefix == " T":
            break
        number /= 1000
    return f"{number:.0f}" if not prefix else f"{number:.3g}{prefix}" if number < 100 else f"{number:.0f}{prefix}"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12.3 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def percent(share: float) -> str:
    """`56.3 %`."""
    return f"{100 * share:.1f} %"


def hop(name: str) -> str:
    """`cloud_to_edge` as `cloud → edge`."""
    return name.replace("_to_", " → ")
