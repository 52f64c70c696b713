# Worker machines of a running cluster on Google Compute Engine, made by Terraform or
# OpenTofu: an example to change. Other clouds differ in the names of resources only.
#
#   herdsman render terraform > main.tf
#   mkdir -p user-data
#   for node in tf-1 tf-2; do
#     herdsman render cloud-init --cluster demo --node $node > user-data/$node
#   done
#   terraform init && terraform apply -var project=… -var 'nodes=["tf-1","tf-2"]' -var scheduler=10.132.0.2
#
# Each file makes one machine a node, once, and within 20 minutes. It holds a key
# until then, and Terraform keeps a copy in its state: both are worthless after.

terraform {
  required_version = ">= 1.3"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "project" {
  type = string
}

variable "zone" {
  type    = string
  default = "europe-west1-b"
}

variable "network" {
  type    = string
  default = "default"
}

variable "nodes" {
  description = "Names of the workers, as given to `herdsman render cloud-init --node`."
  type        = set(string)
}

variable "scheduler" {
  description = "Private address of the cluster's scheduler."
  type        = string
}

variable "owners" {
  description = "Networks from which people reach the scheduler."
  type        = list(string)
  default     = []
}

variable "image" {
  description = "A stock image, or one that herdsman's agent is baked into."
  type        = string
  default     = "debian-cloud/debian-12"
}

variable "machine_type" {
  type    = string
  default = "e2-standard-4"
}

provider "google" {
  project = var.project
  zone    = var.zone
}

resource "google_compute_instance" "worker" {
  for_each     = var.nodes
  name         = each.key
  machine_type = var.machine_type
  tags         = ["herdsman-worker"]

  boot_disk {
    initialize_params {
      image = var.image
      size  = 20
    }
  }

  network_interface {
    network = var.network
    # For downloads. Nothing listens to strangers: the machine closes itself.
    access_config {}
  }

  metadata = {
    user-data = file("${path.module}/user-data/${each.key}")
  }

  # Its user-data is good once: a change of the file means another machine.
  lifecycle {
    ignore_changes = [metadata["user-data"]]
  }
}

# A second wall around what the machines' own packet filter does.

# Workers reach the hub (8785) and Dask's scheduler (8786).
resource "google_compute_firewall" "scheduler_from_workers" {
  name               = "herdsman-scheduler-from-workers"
  network            = var.network
  destination_ranges = ["${var.scheduler}/32"]
  source_tags        = ["herdsman-worker"]

  allow {
    protocol = "tcp"
    ports    = ["8785", "8786"]
  }
}

resource "google_compute_firewall" "scheduler_from_owners" {
  count              = length(var.owners) > 0 ? 1 : 0
  name               = "herdsman-scheduler-from-owners"
  network            = var.network
  destination_ranges = ["${var.scheduler}/32"]
  source_ranges      = var.owners

  allow {
    protocol = "tcp"
    ports    = ["8785", "8786"]
  }
}

# Workers and their nannies, from each other and from the scheduler.
resource "google_compute_firewall" "workers_from_scheduler" {
  name          = "herdsman-workers-from-scheduler"
  network       = var.network
  target_tags   = ["herdsman-worker"]
  source_ranges = ["${var.scheduler}/32"]

  allow {
    protocol = "tcp"
    ports    = ["8788-8887"]
  }
}

resource "google_compute_firewall" "workers_from_workers" {
  name        = "herdsman-workers-from-workers"
  network     = var.network
  target_tags = ["herdsman-worker"]
  source_tags = ["herdsman-worker"]

  allow {
    protocol = "tcp"
    ports    = ["8788-8887"]
  }
}
