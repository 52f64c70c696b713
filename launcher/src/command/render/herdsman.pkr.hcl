# Images with herdsman's agent in them. Machines from them need no script: their
# user-data is the join configuration alone (`form = "json"` in herdsman.toml).
#
#   herdsman render packer > herdsman.pkr.hcl
#   packer init . && packer build -only='*.googlecompute.*' -var agent=herdsman-agent .
#
# With an environment: herdsman pkg pack --to packed, then
# -var environment=packed -var uv="$(command -v uv)"

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1"
    }
    azure = {
      source  = "github.com/hashicorp/azure"
      version = "~> 2"
    }
    digitalocean = {
      source  = "github.com/digitalocean/digitalocean"
      version = "~> 1"
    }
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = "~> 1"
    }
  }
}

variable "agent" {
  description = "The static agent for the image's architecture, as scripts/build-agent makes it."
  type        = string
}

variable "environment" {
  description = "Folder that `herdsman pkg pack --to` wrote; empty: no Python environment."
  type        = string
  default     = ""
}

variable "uv" {
  description = "A uv for Linux, which installs the environment; empty: none."
  type        = string
  default     = ""
}

variable "name" {
  type    = string
  default = "herdsman-debian-12"
}

variable "gcp_project" {
  type    = string
  default = ""
}

variable "gcp_zone" {
  type    = string
  default = "europe-west1-b"
}

variable "do_region" {
  type    = string
  default = "fra1"
}

variable "aws_region" {
  type    = string
  default = "eu-central-1"
}

variable "azure_subscription" {
  type    = string
  default = ""
}

variable "azure_group" {
  description = "Resource group that the image is put into."
  type        = string
  default     = ""
}

variable "azure_location" {
  type    = string
  default = "westeurope"
}

locals {
  stamp = formatdate("YYYYMMDDhhmmss", timestamp())
}

# Credentials come from where each cloud's own tools have them, never from here.

source "googlecompute" "debian" {
  project_id          = var.gcp_project
  zone                = var.gcp_zone
  source_image_family = "debian-12"
  machine_type        = "e2-standard-2"
  ssh_username        = "packer"
  image_name          = "${var.name}-${local.stamp}"
  image_family        = var.name
}

source "digitalocean" "debian" {
  region        = var.do_region
  image         = "debian-12-x64"
  size          = "s-1vcpu-1gb"
  ssh_username  = "root"
  snapshot_name = "${var.name}-${local.stamp}"
}

source "amazon-ebs" "debian" {
  region        = var.aws_region
  instance_type = "t3.small"
  ssh_username  = "admin"
  ami_name      = "${var.name}-${local.stamp}"
  imds_support  = "v2.0"

  source_ami_filter {
    most_recent = true
    owners      = ["136693071363"]

    filters = {
      name                = "debian-12-amd64-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }
}

source "azure-arm" "debian" {
  use_azure_cli_auth                = true
  subscription_id                   = var.azure_subscription
  location                          = var.azure_location
  vm_size                           = "Standard_B2s"
  os_type                           = "Linux"
  image_publisher                   = "debian"
  image_offer                       = "debian-12"
  image_sku                         = "12-gen2"
  managed_image_name                = "${var.name}-${local.stamp}"
  managed_image_resource_group_name = var.azure_group
}

build {
  sources = [
    "source.googlecompute.debian",
    "source.digitalocean.debian",
    "source.amazon-ebs.debian",
    "source.azure-arm.debian",
  ]

  # First boot must be through, or it goes on in the image.
  provisioner "shell" {
    inline = ["sudo cloud-init status --wait >/dev/null || true", "mkdir /tmp/herdsman"]
  }

  provisioner "file" {
    sources     = compact([var.agent, var.uv, var.environment])
    destination = "/tmp/herdsman/"
  }

  provisioner "shell" {
    execute_command = "{{ .Vars }} sudo -E sh -eu '{{ .Path }}'"

    inline = [
      "umask 022",
      "chown -R 0:0 /tmp/herdsman",
      "chmod 755 /tmp/herdsman/${basename(var.agent)}",
      "/tmp/herdsman/${basename(var.agent)} install --no-start",
      var.uv == "" ? "true" : "install -m 755 /tmp/herdsman/${basename(var.uv)} /opt/herdsman/bin/uv",
      var.environment == "" ? "true" : "herdsman-agent environment /tmp/herdsman/${basename(var.environment)}",
      "rm -rf /tmp/herdsman /opt/herdsman/env/.cache",
    ]
  }

  # No identity stays in the image, nor what a former machine was told.
  provisioner "shell" {
    execute_command = "{{ .Vars }} sudo -E sh -eu '{{ .Path }}'"

    inline = [
      "find /var/lib/herdsman -mindepth 1 -maxdepth 1 ! -name home -exec rm -rf {} +",
      "cloud-init clean --logs --seed",
      "rm -rf /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/log/journal/*",
      "rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys",
      ": >/etc/machine-id",
      "if command -v waagent >/dev/null; then waagent -force -deprovision+user; fi",
      "sync",
    ]
  }
}
