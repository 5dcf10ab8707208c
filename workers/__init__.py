"""The worker's side: settings, telemetry, wiring (the only place that names concrete classes) and its commands."""
