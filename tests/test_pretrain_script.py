"""`scripts/pretrain.py` as its user runs it: whole, killed and gone on, on two hosts, and wrong."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import mimic_store
import numpy as np
import pytest
import running

from cxr_embeddings.configs.schema import NetworkConfig
from cxr_embeddings.encoder import efficientnet, embedding_layers, random_weights, weights
