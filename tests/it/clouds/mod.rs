//! Clouds, emulated on loopback. What makes the calls is the real launcher; what
//! looks at them is the vendor's own model.

mod aws;
mod azure;
mod azure_lab;
mod digitalocean;
mod firmware;
mod gcp;
mod gcp_lab;
mod hetzner;
mod lab;
mod native;
mod openstack;
mod openstack_lab;
mod plain;
mod scaled;
mod troubles;
mod vendors;
