"""Users: what the panel sells, how time and traffic change them, and the events that come of it.

                  first traffic, or on_hold_timeout
        on_hold ------------------------------------> active <----------> disabled   (an admin)
                                                      |    ^
                             data_limit used          |    |  reset, renewal, higher limit, next plan
                             expire reached           v    |
                                               limited, expired ----> deleted        (auto_delete_in_days)

Everything here is pure: a transition takes a user and the time and returns a new user, and `changes` tells from the
user before and after which events that makes.
"""

from marzhook.user.events import changes
from marzhook.user.model import (
    ACTIVE,
    DISABLED,
    EXPIRED,
    LIMITED,
    MAX_TRAFFIC,
    ON_HOLD,
    RESET_DAYS,
    STATUSES,
    NextPlan,
    Thresholds,
    User,
)
from marzhook.user.transitions import (
    activated,
    assessed,
    charged,
    created,
    disabled,
    is_forgotten,
    modified,
    next_review_at,
    next_review_traffic,
    owned,
    reset,
    revoked,
)

__all__ = [
    "ACTIVE",
    "DISABLED",
    "EXPIRED",
    "LIMITED",
    "MAX_TRAFFIC",
    "ON_HOLD",
    "RESET_DAYS",
    "STATUSES",
    "NextPlan",
    "Thresholds",
    "User",
    "activated",
    "assessed",
    "changes",
    "charged",
    "created",
    "disabled",
    "is_forgotten",
    "modified",
    "next_review_at",
    "next_review_traffic",
    "owned",
    "reset",
    "revoked",
]
