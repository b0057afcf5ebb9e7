"""Flow and camera motion from the events of an event camera."""
