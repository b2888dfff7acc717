"""Panopto tenants: links, DeliveryInfo, and the source that joins them."""
