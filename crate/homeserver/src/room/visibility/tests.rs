//! The rules as a table: every visibility, every membership, joined later or not.

use super::*;

#[test]
fn every_visibility_and_membership() {
    const MEMBERSHIPS: [Option<MembershipKind>; 6] = [
        Some(MembershipKind::Join),
        Some(MembershipKind::Invite),
        Some(MembershipKind::Knock),
        Some(MembershipKind::Leave),
        Some(MembershipKind::Ban),
        None,
    ];
    // y: visible, n: hidden, l: visible to one who joined at any point later.
    let table = [
        //                      join invite knock leave ban never
        ("world_readable", ["y", "y", "y", "y", "y", "y"]),
        ("shared", ["y", "l", "l", "l", "l", "l"]),
        ("invited", ["y", "y", "n", "n", "n", "n"]),
        ("joined", ["y", "n", "n", "n", "n", "n"]),
        // Not understood: as shared.
        ("org.example.unknown", ["y", "l", "l", "l", "l", "l"]),
    ];
    for (visibility, row) in table {
        for (membership, expected) in MEMBERSHIPS.into_iter().zip(row) {
            for joined_after in [false, true] {
                let visible = is_visible(&visibility.into(), membership, joined_after);
                let expected = expected == "y" || expected == "l" && joined_after;
                assert_eq!(visible, expected, "{visibility}, {membership:?}, joined later: {joined_after}");
            }
        }
    }
}
