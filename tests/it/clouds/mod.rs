//! Clouds, emulated on loopback. What makes the calls is the real launcher; what
//! looks at them is the vendor's own model.

mod aws;
mod azure;
mod azure_lab;
mod lab;
