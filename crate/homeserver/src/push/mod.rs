//! Push notifications (Client-Server API, Push Notifications): which events notify whom.
