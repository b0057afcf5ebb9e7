"""Readers of k-space of magnetic resonance imaging: ISMRMRD and fastMRI."""
