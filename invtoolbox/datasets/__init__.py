"""Readers of data sets, one per format.

A data set is any object with ``__len__`` and ``__getitem__`` whose items are `Measurement`s or lidar
`Sweep`s.
"""

from __future__ import annotations

from invtoolbox.core.trust import trusting
from invtoolbox.datasets.events.arrays import write_events
from invtoolbox.datasets.events.opening import EVENT_READERS, read_events
from invtoolbox.datasets.measurement import DataSet, Measurement
from invtoolbox.datasets.models.gaussians import (
    read_splats,
    read_voxels,
    write_splats,
    write_voxels,
)
from invtoolbox.datasets.models.meshes import read_mesh, write_mesh
from invtoolbox.datasets.mri.fastmri import FastMRI
from invtoolbox.datasets.mri.ismrmrd import Ismrmrd
from invtoolbox.datasets.mri.kspace import KSpace, KSpaceData
from invtoolbox.datasets.mri.opening import open_kspace
from invtoolbox.datasets.opening import FILE_READERS, READERS, open, open_measurements
from invtoolbox.datasets.output import (
    Written,
    remove_stale,
    write_bytes,
    write_hdf5,
    write_npy,
    write_png,
    writing,
)
from invtoolbox.datasets.ply import read_ply, write_ply
from invtoolbox.datasets.pose_files import read_poses
from invtoolbox.datasets.scans.center_of_rotation import center_of_rotation
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.geometry_file import geometry_from_mapping, read_geometry
from invtoolbox.datasets.scans.htc2022 import HTC2022
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.scans.segy import SeismicRecords, read_segy
from invtoolbox.datasets.scans.synchrotron import DataExchange, NXtomo
from invtoolbox.datasets.shelf import (
    ct_small,
    data_folder,
    find_file,
    open_named,
    photograph,
    verify,
)
from invtoolbox.datasets.sweeps.argoverse import Argoverse2
from invtoolbox.datasets.sweeps.argoverse_flow import (
    ArgoverseFlow,
    argoverse_mask,
    argoverse_path,
    pack_argoverse,
    read_argoverse,
    write_argoverse,
)
from invtoolbox.datasets.sweeps.flow_files import FlowFile, read_flow, refuse_source, write_flow
from invtoolbox.datasets.sweeps.folder import LidarFolder, OusterFrames
from invtoolbox.datasets.sweeps.kitti import KittiOdometry, KittiRaw, KittiSceneFlow
from invtoolbox.datasets.sweeps.nuscenes import NuScenes
from invtoolbox.datasets.sweeps.opening import SWEEP_READERS, open_sweeps
from invtoolbox.datasets.sweeps.opensceneflow import OpenSceneFlow
from invtoolbox.datasets.sweeps.pcd import read_pcd
from invtoolbox.datasets.sweeps.waymo import Waymo
from invtoolbox.datasets.transforms.opening import read_transform, write_transform
from invtoolbox.datasets.views.colmap import open_colmap, read_colmap, write_colmap
from invtoolbox.datasets.views.opening import VIEW_READERS, open_views
from invtoolbox.datasets.views.opensfm import open_opensfm, read_opensfm
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.rgbd import open_rgbd
from invtoolbox.datasets.views.sparse_model import SparseCamera, SparseModel
from invtoolbox.datasets.views.structure_from_motion import find_cameras, open_found_cameras
from invtoolbox.datasets.views.transforms import (
    open_blender,
    open_llff,
    open_transforms,
    write_transforms,
)
from invtoolbox.datasets.views.view_loading import Loading, View, load_views
from invtoolbox.datasets.volumes.arrays import Arrays
from invtoolbox.datasets.volumes.dicom import (
    Dicom,
    DicomSeries,
    hounsfield_to_attenuation,
)
from invtoolbox.datasets.volumes.dicom_writer import write_dicom_series
from invtoolbox.datasets.volumes.hdf5 import BlurKernels, Hdf5
from invtoolbox.datasets.volumes.metaimage import MetaImage, write_metaimage
from invtoolbox.datasets.volumes.nifti import Nifti, write_nifti
from invtoolbox.datasets.volumes.normal_maps import (
    read_depth,
    read_intrinsics,
    read_mask,
    read_normal_map,
)
from invtoolbox.datasets.volumes.ome_zarr import write_ome_zarr
from invtoolbox.datasets.volumes.picture_writer import write_picture
from invtoolbox.datasets.volumes.pictures import Pictures
from invtoolbox.datasets.volumes.raw import Raw, write_raw
from invtoolbox.datasets.volumes.tiff import TiffStack, write_tiff_stack
from invtoolbox.datasets.volumes.volume import Volume, VolumeInMemory
from invtoolbox.datasets.writers import write, write_tiff
from invtoolbox.geometry.grids import Grid

__all__ = [
    "EVENT_READERS",
    "FILE_READERS",
    "HTC2022",
    "READERS",
    "SWEEP_READERS",
    "VIEW_READERS",
    "Argoverse2",
    "ArgoverseFlow",
    "Arrays",
    "BlurKernels",
    "DataExchange",
    "DataSet",
    "Dicom",
    "DicomSeries",
    "FastMRI",
    "FlowFile",
    "Geometry",
    "Geometry3D",
    "Grid",
    "Hdf5",
    "Ismrmrd",
    "KSpace",
    "KSpaceData",
    "KittiOdometry",
    "KittiRaw",
    "KittiSceneFlow",
    "LidarFolder",
    "Loading",
    "Measurement",
    "MetaImage",
    "NXtomo",
    "Nifti",
    "NuScenes",
    "OpenSceneFlow",
    "OusterFrames",
    "Pictures",
    "PosedPictures",
    "Raw",
    "ScanGeometry",
    "SeismicRecords",
    "SparseCamera",
    "SparseModel",
    "TiffStack",
    "View",
    "Volume",
    "VolumeInMemory",
    "Waymo",
    "Written",
    "argoverse_mask",
    "argoverse_path",
    "center_of_rotation",
    "ct_small",
    "data_folder",
    "find_cameras",
    "find_file",
    "geometry_from_mapping",
    "hounsfield_to_attenuation",
    "load_views",
    "open",
    "open_blender",
    "open_colmap",
    "open_found_cameras",
    "open_kspace",
    "open_llff",
    "open_measurements",
    "open_named",
    "open_opensfm",
    "open_rgbd",
    "open_sweeps",
    "open_transforms",
    "open_views",
    "pack_argoverse",
    "photograph",
    "read_argoverse",
    "read_colmap",
    "read_depth",
    "read_events",
    "read_flow",
    "read_geometry",
    "read_intrinsics",
    "read_mask",
    "read_mesh",
    "read_normal_map",
    "read_opensfm",
    "read_pcd",
    "read_ply",
    "read_poses",
    "read_segy",
    "read_splats",
    "read_transform",
    "read_voxels",
    "refuse_source",
    "remove_stale",
    "trusting",
    "verify",
    "write",
    "write_argoverse",
    "write_bytes",
    "write_colmap",
    "write_dicom_series",
    "write_events",
    "write_flow",
    "write_hdf5",
    "write_mesh",
    "write_metaimage",
    "write_nifti",
    "write_npy",
    "write_ome_zarr",
    "write_picture",
    "write_ply",
    "write_png",
    "write_raw",
    "write_splats",
    "write_tiff",
    "write_tiff_stack",
    "write_transform",
    "write_transforms",
    "write_voxels",
    "writing",
]
