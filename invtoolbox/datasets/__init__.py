"""Data sets: one reader a format, each anything with ``__len__`` and ``__getitem__`` that gives a
`Measurement`, or a lidar `Sweep`."""

from __future__ import annotations

from invtoolbox.datasets.argoverse_flow import (
    ArgoverseFlow,
    argoverse_mask,
    argoverse_path,
    pack_argoverse,
    read_argoverse,
    write_argoverse,
)
from invtoolbox.datasets.arrays import Arrays
from invtoolbox.datasets.blur_kernels import BlurKernels
from invtoolbox.datasets.cameras_blender import open_blender
from invtoolbox.datasets.cameras_transforms import open_transforms, write_transforms
from invtoolbox.datasets.center import center_of_rotation
from invtoolbox.datasets.colmap import open_colmap, read_colmap, write_colmap
from invtoolbox.datasets.dicom import Dicom, attenuation_to_hounsfield, hounsfield_to_attenuation
from invtoolbox.datasets.dicom_series import DicomSeries
from invtoolbox.datasets.dxchange import DataExchange
from invtoolbox.datasets.flow_files import FlowFile, read_flow, refuse_source, write_flow
from invtoolbox.datasets.geometry import Geometry
from invtoolbox.datasets.geometry_3d import Geometry3D
from invtoolbox.datasets.geometry_file import geometry_from_mapping, read_geometry
from invtoolbox.datasets.hdf5 import Hdf5
from invtoolbox.datasets.htc2022 import HTC2022
from invtoolbox.datasets.lidar_argoverse import Argoverse2
from invtoolbox.datasets.lidar_folder import LidarFolder
from invtoolbox.datasets.lidar_kitti import KittiOdometry, KittiRaw
from invtoolbox.datasets.lidar_kitti_flow import KittiSceneFlow
from invtoolbox.datasets.lidar_nuscenes import NuScenes
from invtoolbox.datasets.lidar_opening import SWEEP_READERS, open_sweeps
from invtoolbox.datasets.lidar_ouster import OusterFrames
from invtoolbox.datasets.lidar_waymo import Waymo
from invtoolbox.datasets.llff import open_llff
from invtoolbox.datasets.measurement import DataSet, Measurement
from invtoolbox.datasets.meshes import read_mesh, write_mesh
from invtoolbox.datasets.metaimage import MetaImage, write_metaimage
from invtoolbox.datasets.nexus import NXtomo
from invtoolbox.datasets.nifti import Nifti, write_nifti
from invtoolbox.datasets.opening import READERS, open, open_measurements
from invtoolbox.datasets.opensfm import open_opensfm, read_opensfm
from invtoolbox.datasets.output import (
    Written,
    write,
    write_bytes,
    write_hdf5,
    write_npy,
    write_png,
    write_tiff,
    writing,
)
from invtoolbox.datasets.pcd import read_pcd
from invtoolbox.datasets.pictures import Pictures
from invtoolbox.datasets.ply import read_ply, write_ply
from invtoolbox.datasets.pose_files import read_poses
from invtoolbox.datasets.posed_pictures import PosedPictures, View, load_views
from invtoolbox.datasets.raw import Raw, write_raw
from invtoolbox.datasets.rgbd import open_rgbd
from invtoolbox.datasets.samples import ct_small, photograph
from invtoolbox.datasets.scan_geometry import ScanGeometry
from invtoolbox.datasets.shelf import data_folder, find_file, open_named, verify
from invtoolbox.datasets.sparse_model import SparseCamera, SparseModel
from invtoolbox.datasets.splat_ply import read_splats, write_splats
from invtoolbox.datasets.tiff import TiffStack, write_tiff_stack
from invtoolbox.datasets.view_opening import VIEW_READERS, open_views
from invtoolbox.datasets.volume import Grid, Volume, VolumeInMemory
from invtoolbox.datasets.voxel_file import read_voxels, write_voxels

__all__ = [
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
    "FlowFile",
    "Geometry",
    "Geometry3D",
    "Grid",
    "Hdf5",
    "KittiOdometry",
    "KittiRaw",
    "KittiSceneFlow",
    "LidarFolder",
    "Measurement",
    "MetaImage",
    "NXtomo",
    "Nifti",
    "NuScenes",
    "OusterFrames",
    "Pictures",
    "PosedPictures",
    "Raw",
    "ScanGeometry",
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
    "attenuation_to_hounsfield",
    "center_of_rotation",
    "ct_small",
    "data_folder",
    "find_file",
    "geometry_from_mapping",
    "hounsfield_to_attenuation",
    "load_views",
    "open",
    "open_blender",
    "open_colmap",
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
    "read_flow",
    "read_geometry",
    "read_mesh",
    "read_opensfm",
    "read_pcd",
    "read_ply",
    "read_poses",
    "read_splats",
    "read_voxels",
    "refuse_source",
    "verify",
    "write",
    "write_argoverse",
    "write_bytes",
    "write_colmap",
    "write_flow",
    "write_hdf5",
    "write_mesh",
    "write_metaimage",
    "write_nifti",
    "write_npy",
    "write_ply",
    "write_png",
    "write_raw",
    "write_splats",
    "write_tiff",
    "write_tiff_stack",
    "write_transforms",
    "write_voxels",
    "writing",
]
