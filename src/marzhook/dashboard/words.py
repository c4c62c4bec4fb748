"""What the dashboard says about things that have names in the program: states, actions, errors, an endpoint's health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from markupsafe import Markup, escape

from marzhook import errors
from marzhook.dashboard.characters import harmless
from marzhook.dashboard.languages import Language
from marzhook.delivery import DELIVERED, Attempt
from marzhook.destinations.kinds import trouble
from marzhook.dispatch import health as outage
from marzhook.endpoint import REMOVED, Endpoint
from marzhook.preflight import Trouble
from marzhook.sources.user_fields import NOT_TEXT
from marzhook.store.history import DeliveryRow
from marzhook.store.outcomes import SETTLED_LOOKED_AT


def N_(message: str) -> str:
    """Marks a text that is translated later."""
    return message


_STATES: Final = {
    "pending": N_("waiting"), "delivered": N_("delivered"), "dead": N_("dead"), "cancelled": N_("cancelled"),
}  # fmt: skip
_STATUSES: Final = {
    "active": N_("active"), "disabled": N_("disabled"), "limited": N_("limited"), "expired": N_("expired"),
    "on_hold": N_("on hold"),
}  # fmt: skip
_ACTIONS: Final = {
    "user_created": N_("User created"),
    "user_updated": N_("User updated"),
    "user_deleted": N_("User deleted"),
    "user_limited": N_("Data limit reached"),
    "user_expired": N_("User expired"),
    "user_disabled": N_("User disabled"),
    "user_enabled": N_("User enabled"),
    "data_usage_reset": N_("Traffic reset"),
    "data_reset_by_next": N_("Next plan started"),
    "subscription_revoked": N_("Subscription revoked"),
    "reached_usage_percent": N_("Usage reminder"),
    "reached_days_left": N_("Expiry reminder"),
    "marzhook_test": N_("Test event"),
    "endpoint_failing": N_("Endpoint is failing"),
    "endpoint_disabled": N_("Endpoint was disabled"),
    "endpoint_recovered": N_("Endpoint recovered"),
    "deliveries_stalled": N_("Deliveries stalled"),
}
_PROBLEMS: Final = {
    "wrong_password": N_("The name or the password is wrong."),
    "too_many_sign_ins": N_("Too many failed sign-ins. Wait a few minutes, then try again."),
    "too_many_logins": N_("Too many sign-ins at once. Try again in a second."),
    "form_expired": N_("This form is out of date. Go back, reload the page and try again."),
    "form_repeated": N_("This was sent before, and whether it was done is not known yet. Look before you do it again."),
    "invalid_url": N_("This address cannot be used."),
    "invalid_name": N_("This name cannot be used: 1 to 200 printable characters."),
    "invalid_secret": N_("This secret cannot be used: 1 to 1,024 printable ASCII characters."),
    "lost_secret": N_("Write the secret again: it is not shown. Or save without one."),
    "invalid_action": N_("Choose at least one action, or all."),
    "both_actions": N_(
        "All events were chosen, and single ones as well. Save these, or take their ticks away and choose all."
    ),
    "invalid_admins": N_("These names of admins cannot be used."),
    "invalid_username": N_("No user has such a name."),
    "invalid_usernames": N_("These patterns of names cannot be used."),
    "spaced_names": N_("Put a comma between two names; a name here has no spaces."),
    "invalid_condition": N_("This condition cannot be used."),
    "invalid_template": N_("This template cannot be used."),
    "render_failed": N_("The template makes no JSON of this event."),
    "kind_not_allowed": N_(
        "Endpoints of this kind are made by who runs Marzhook, unless MARZHOOK_API_KINDS allows more."
    ),
    "program_not_allowed": N_("This program may not be run: MARZHOOK_EXEC_ALLOW does not name it."),
    "invalid_options": N_("One of the fields cannot be used."),
    "invalid_number": N_("A number is expected here."),
    "number_out_of_range": N_("This number is too large or too small."),
    "ambiguous_number": N_("Write this number without a comma: it could set off thousands or a fraction."),
    "invalid_choice": N_("Choose one of these."),
    "invalid_time": N_("A date is expected here."),
    "endpoint_from_environment": N_("This endpoint comes from the settings: change it there and restart Marzhook."),
    "endpoint_disabled": N_("The endpoint is paused. Resume it first."),
    "endpoint_deleted": N_("The endpoint was deleted: nothing can be sent to it."),
    "already_delivered": N_("This was delivered already."),
    "not_pending": N_("Only a waiting delivery can be cancelled."),
    "replay_running": N_("A replay is running. Wait for its end, or stop it."),
    "inbox_in_use": N_("The inbox is an endpoint already."),
    "user_exists": N_("There is a user of this name already."),
    "endpoint_not_found": N_("There is no such endpoint."),
    "event_not_found": N_("There is no such event, or it is no longer kept."),
    "delivery_not_found": N_("There is no such delivery, or it is no longer kept."),
    "user_not_found": N_("There is no such user."),
    "not_found": N_("There is no such page."),
    "forbidden": N_("Your account may not see this."),
    "store_busy": N_("The database is busy. Try again in a moment."),
    "disk_full": N_("The disk is full: nothing was changed. Free some space, then try again."),
    "outcome_unknown": N_("The database went away meanwhile. Look whether it was done before you try again."),
    "internal": N_("Something went wrong. The log of the service has the details."),
}
_FIELDS: Final = {
    "username": N_("3 to 32 Latin letters, digits and - _ @ ."),
    "data_limit": N_("A number is expected here."),
    "expire": N_("A date is expected here."),
    "note": N_("This text cannot be used: at most 500 characters."),
    "data_limit_reset_strategy": _PROBLEMS["invalid_choice"],
}
_UNSENT: Final = {
    "actions": N_("Choose at least one action, or all."),
    "usernames": N_("Not sent: no name could be found here that these patterns let pass."),
    "condition": N_("This example is not sent: the condition is not true of it."),
}
NOTHING_MADE: Final = N_("The template makes nothing of this event (null): what it names is not there.")
# Whose own message says more than its code does: what exactly is wrong, in English.
_DETAILED: Final = frozenset(
    {
        "invalid_url", "invalid_user", "invalid_admins", "invalid_usernames", "invalid_condition",
        "invalid_template", "invalid_options", "render_failed",
    }
)  # fmt: skip


def state(language: Language, name: str) -> str:
    return language.gettext(_STATES[name])


def status(language: Language, name: str) -> str:
    return language.gettext(_STATUSES[name])


def action(language: Language, name: str) -> str:
    """An action in words; one that nobody here knows, as it is called."""
    return language.gettext(_ACTIONS[name]) if name in _ACTIONS else name


def problem(language: Language, error: errors.MarzhookError) -> tuple[str, str]:
    """What is wrong, in the reader's language, and what the program itself says about it, in English, or nothing."""
    if error.reason:
        _ = language.gettext
        reason = _reason(language, error.reason, error.values)
        if error.code in ("invalid_url", "address_not_allowed"):
            told = escape(_("This address cannot be used: %(reason)s.")) % {"reason": reason}
        elif error.code == "invalid_options":
            told = escape(_("This cannot be used: %(reason)s.")) % {"reason": reason}
        else:
            told = escape(_(_PROBLEMS.get(error.code, N_("This was refused.")))) + Markup(" ({})").format(reason)
        return told, ""
    if error.code in _PROBLEMS:
        return language.gettext(_PROBLEMS[error.code]), str(error) if error.code in _DETAILED else ""
    return language.gettext("This was refused."), str(error)


def obstacle(language: Language, found: Trouble | None) -> str:
    """Why nothing can be sent from here, as far as that is known; "": nothing is."""
    if found is None:
        return ""
    told = escape(language.gettext(N_("Nothing can be sent there from this machine: %(reason)s.")))
    return told % {"reason": _reason(language, found.reason, found.values)}


def _reason(language: Language, reason: str, given: Mapping[str, str | int]) -> Markup:
    """What exactly is wrong. What turns direction in our own text, a translator has put there; what somebody has written is
    shown as it is, each apart."""
    values = {
        name: language.number(value)
        if isinstance(value, int)
        else Markup('<bdi dir="ltr">{}</bdi>').format(harmless(value))
        for name, value in given.items()
    }
    text = escape(language.gettext(reason))
    told = text % values if values.keys() - {"line"} else text
    if "line" in values:
        about = escape(language.gettext(N_("line %(line)s: %(reason)s")))
        return about % {"line": values["line"], "reason": told}
    return told


def field(language: Language, name: str, said: str) -> str | None:
    """What a field of a user takes, of which the program `said` what is wrong; None for one that no form has."""
    if NOT_TEXT in said:
        return language.gettext("This text cannot be used: it has characters that no text has.")
    return language.gettext(_FIELDS[name]) if name in _FIELDS else None


def unsent(language: Language, part: str | None) -> str:
    """Why an event is not sent that this part of a filter does not let pass; "" where all do."""
    return language.gettext(_UNSENT[part]) if part in _UNSENT else ""


# -- tries


def attempt(language: Language, one: Attempt) -> str:
    """How a try went, in words."""
    _ = language.gettext
    if one.error is not None:
        return _error(language, one)
    status = one.status or 0
    code = {"status": language.number(status, "0")}
    if one.schedule is None:
        # No HTTP request: a program that ended well, a message or rows that went out.
        return _("accepted (%(status)s)") % code if status else _("accepted")
    match status:
        case value if value < 100:
            text = _("ends with exit status %(status)s")
        case 401 | 403:
            text = _("refuses the secret or the sender (%(status)s)")
        case 404:
            text = _("knows no such address (%(status)s)")
        case 410:
            text = _("wants no more events (%(status)s)")
        case 429:
            text = _("asks for fewer requests (%(status)s)")
        case value if 300 <= value < 400:
            text = _("redirects elsewhere, which is not followed (%(status)s)")
        case value if 400 <= value < 500:
            text = _("refuses the event (%(status)s)")
        case value if value >= 500:
            text = _("reports an error of its own (%(status)s)")
        case _other:
            text = _("answers with status %(status)s")
    return text % code


def last_try(language: Language, row: DeliveryRow) -> str:
    """How the last try of a delivery went; "—" where there was none."""
    if row.last_at is None or row.last_duration is None:
        return "—"
    schedule = None if row.state == DELIVERED else "standard"
    one = Attempt(
        row.attempts,
        row.last_at,
        row.last_duration,
        row.last_status,
        row.last_error,
        row.last_message or "",
        "",
        schedule,
    )
    return attempt(language, one)


def _error(language: Language, one: Attempt) -> str:
    _ = language.gettext
    match one.error:
        case "timeout" if one.message.startswith("no connection"):
            return _("unreachable: no connection within %(time)s") % {"time": language.seconds(one.duration)}
        case "timeout":
            return _("hangs: no answer within %(time)s") % {"time": language.seconds(round(one.duration))}
        case "dns":
            return _("its name is not found")
        case "connect":
            return _("refuses connections")
        case "tls":
            return _("its certificate is not valid, or it does not speak TLS")
        case "refused_address":
            return _("its address is not public, and not allowed")
        case "protocol":
            return _("does not answer in HTTP")
        case "reset":
            return _("breaks the connection off")
        case "cancelled":
            return _("the service was stopped meanwhile")
        case "render":
            return _("the request could not be made")
    return _("failed for another reason")


# -- endpoints

_OURS: Final = {"Inbox": N_("Inbox"), "Database": N_("Database")}
"""Names that nobody chose: the settings' endpoints have them."""


def called(language: Language, endpoint: Endpoint) -> str:
    """Its name; in the reader's language, where it is ours."""
    ours = endpoint.source == "environment" and endpoint.name in _OURS
    return language.gettext(_OURS[endpoint.name]) if ours else endpoint.name


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint fares: `kind` is well, failing, paused, or new (nothing was sent yet)."""

    kind: str
    words: str
    since: datetime | None = None
    in_a_row: int = 0
    at_least: bool = False
    """Whether there may be more of them than were read."""
    detail: str = ""
    """What the last try itself says, in English, where no words of ours tell what is wrong."""


def health(language: Language, endpoint: Endpoint, tries: Sequence[Attempt]) -> Health:
    """Judged by its last tries, the newest first."""
    _ = language.gettext
    read = len(tries)
    tries = [one for one in tries if endpoint.judged_from is None or one.at >= endpoint.judged_from]
    failures = next((i for i, one in enumerate(tries) if one.schedule is None), len(tries))
    # All that was read failed: there may be older ones, and an outage may be older than these.
    at_least = SETTLED_LOOKED_AT <= failures == read
    began = [tries[failures - 1].at, endpoint.failing_since] if failures else []
    since = min((at for at in began if at is not None), default=None)
    if at_least:
        # The oldest that was read is the beginning of nothing, and how many were read may fall with each further failure.
        failures, since = SETTLED_LOOKED_AT, None if since == tries[-1].at else since
    if not endpoint.enabled:
        return Health("paused", _paused(language, endpoint), since, failures, at_least)
    if (error := trouble(endpoint)) is not None:
        reason = (
            _reason(language, error.reason, error.values)
            if error.reason
            else Markup('<bdi lang="en">{}</bdi>').format(error)
        )
        told = escape(_("nothing can be sent as it is stored, so its events wait: %(reason)s"))
        return Health("failing", told % {"reason": reason})
    if failures:
        detail = tries[0].message if tries[0].error in ("other", "render") else ""
        return Health("failing", attempt(language, tries[0]), since, failures, at_least, detail)
    if tries:
        return Health("well", _("accepts what is sent"), tries[0].at)
    return Health("new", _("nothing was sent since it was changed or resumed") if read else _("nothing was sent yet"))


def _paused(language: Language, endpoint: Endpoint) -> str:
    _ = language.gettext
    match endpoint.disabled_reason:
        case None | "over the API" | "by the operator" | "made disabled" | "on the dashboard":
            return _("what happens meanwhile is kept for it")
        case reason if reason == REMOVED:
            return _("it is no longer in the settings")
        case outage.GONE:
            return _("it wants no more events (410)")
        case outage.REASON:
            return _("it accepted nothing for 5 days")
    return endpoint.disabled_reason or ""
