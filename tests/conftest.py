"""Settings of every test: one hypothesis profile, whose failures print the blob that replays them."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "vicinal",
    deadline=None,  # machines differ, and a timing is never asserted
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("vicinal")
