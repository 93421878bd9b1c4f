"""Settings of every test: one hypothesis profile, whose failures print the blob that replays them.

The same examples come each time, so that a change is judged and not a throw of the dice;
`make test-long` sets VICINAL_RANDOM and draws new ones.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "vicinal",
    deadline=None,  # machines differ, and a timing is never asserted
    print_blob=True,
    derandomize="VICINAL_RANDOM" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("vicinal")
