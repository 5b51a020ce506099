//! Tables of text.

/// A table with a head, each column as wide as its widest cell; without
/// trailing blanks, each line ended.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in lines() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_their_text_does() {
        let rows = [["cart-service".to_owned(), "ok".to_owned()], ["x".to_owned(), String::new()]];
        assert_eq!(table(["SERVICE", "H"], &rows), "SERVICE       H\ncart-service  ok\nx\n");
    }
}
