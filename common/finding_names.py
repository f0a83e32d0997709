"""Names of findings in the label tables of data sets, and the values of their columns."""

NO_FINDING, SUPPORT_DEVICES = "No Finding", "Support Devices"

# The 14 of the CheXpert and NegBio labellers (Irvin et al., arXiv 1901.07031, table 1), as the
# tables of MIMIC-CXR-JPG and CheXpert name them.
CHEXPERT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", NO_FINDING, "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", SUPPORT_DEVICES,
)  # fmt: skip
# The 14 of ChestX-ray14 (Wang et al., CVPR 2017, in its extended release), which lists them, or
# `NO_FINDING`, in one column with | between.
NIH = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip
NIH_COLUMN = "Finding Labels"
# What a column of one finding holds: positive, negative, uncertain, not mentioned.
VALUES: dict[str, int | None] = {
    "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None,
}  # fmt: skip
