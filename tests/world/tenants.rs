//! Tenants: the small directory that most tests share the text of.

/// Contoso spans EUR and NAM and enters in EUR: Anna and Ida live in EUR, Ben and Bob in NAM.
pub const CONTOSO: &str = r#"
[[tenant]]
id = "contoso"
default_region = "NAM"
allowed_regions = ["NAM", "EUR", "GBR"]
multi_geo = true
in_region_routing = true

[[tenant.domain]]
name = "contoso.com"
mail_flow_region = "EUR"

[[tenant.user]]
address = "anna@contoso.com"
preferred_data_location = "EUR"

[[tenant.user]]
address = "ida@contoso.com"
preferred_data_location = "EUR"

[[tenant.user]]
address = "ben@contoso.com"
preferred_data_location = "NAM"

[[tenant.user]]
address = "bob@contoso.com"
preferred_data_location = "NAM"
"#;
