"""Problems of `doors.py`."""
