"""Tests of the automatic choices of images."""
