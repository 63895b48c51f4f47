use super::*;
use crate::observe::scrape::collector::MAX_SERIES;

const NOW: f64 = 1_604_902_320.0;

fn wanted() -> Wanted {
    Wanted {
        now: NOW,
        ..Wanted::default()
    }
}

fn read_as(wanted: Wanted, text: &str) -> Page {
    let mut reader = Reader::new(wanted);
    reader.feed(text.as_bytes());
    reader.finish()
}

fn read(text: &str) -> Page {
    read_as(wanted(), text)
}

/// (route, count, sum) of each series, in the order of the page.
fn told(page: &Page) -> Vec<(&str, f64, f64)> {
    let series = page.series.iter();
    series
        .map(|one| (one.route.as_str(), one.count, one.sum))
        .collect()
}

fn found(page: &Page) -> Option<(&str, Vec<&str>, usize)> {
    let found = page.found.as_ref()?;
    let labels = found.labels.iter().map(String::as_str).collect();
    Some((found.family.as_str(), labels, found.routes))
}

#[test]
fn a_histogram_is_read_series_by_series() {
    let page = read(concat!(
        "# HELP http_request_duration_seconds Time \\n taken\r\n",
        "# TYPE http_request_duration_seconds histogram\r\n",
        "http_request_duration_seconds_bucket{le=\"0.1\",method=\"GET\",route=\"/a\",code=\"200\"} 3\r\n",
        "http_request_duration_seconds_bucket{le=\"0.5\",method=\"GET\",route=\"/a\",code=\"200\"} 4 # {trace_id=\"1\"} 0.3\r\n",
        "http_request_duration_seconds_bucket{le=\"+Inf\",method=\"GET\",route=\"/a\",code=\"200\"} 6\r\n",
        "http_request_duration_seconds_sum{method=\"GET\",route=\"/a\",code=\"200\"} 2.5\r\n",
        "http_request_duration_seconds_count{method=\"GET\",route=\"/a\",code=\"200\"} 6\r\n",
        "http_request_duration_seconds_sum{method=\"GET\",route=\"/a\",code=\"500\"} 1\r\n",
        "http_request_duration_seconds_count{method=\"GET\",route=\"/a\",code=\"500\"} 2\r\n",
        "process_start_time_seconds 1.6049e+09\r\n",
    ));
    assert_eq!(told(&page), [("GET /a", 6.0, 2.5), ("GET /a", 2.0, 1.0)]);
    assert_eq!(
        page.series[0].buckets,
        [(0.1, 3.0), (0.5, 1.0), (f64::INFINITY, 2.0)]
    );
    assert_ne!(page.series[0].key, page.series[1].key);
    assert_eq!(
        found(&page),
        Some(("http_request_duration_seconds", vec!["route", "method"], 1))
    );
    assert_eq!(page.process_start, Some(1.6049e9));
    assert!(page.rejected.is_empty() && !page.incomplete);
}

#[test]
fn milliseconds_become_seconds_and_quantiles_are_left_out() {
    let page = read(
        "http_server_duration_milliseconds_sum{http_route=\"/a\"} 2500\n\
         http_server_duration_milliseconds_count{http_route=\"/a\"} 6\n\
         http_server_duration_milliseconds_bucket{http_route=\"/a\",le=\"500\"} 6\n\
         http_server_duration_milliseconds{http_route=\"/a\",quantile=\"0.5\"} 3\n",
    );
    assert_eq!(told(&page), [("/a", 6.0, 2.5)]);
    assert_eq!(page.series[0].buckets, [(0.5, 6.0)]);
}

#[test]
fn a_counter_with_a_twin_of_durations_is_as_good() {
    let page = read(
        "http_requests_total{route=\"/a\",method=\"GET\"} 6\n\
         http_request_duration_seconds_total{route=\"/a\",method=\"GET\"} 2.5\n",
    );
    assert_eq!(told(&page), [("GET /a", 6.0, 2.5)]);
    let alone = read("http_requests_total{route=\"/a\",method=\"GET\"} 6\n");
    assert_eq!((alone.found, alone.series.len()), (None, 0));
    assert_eq!(
        alone.candidates[0].why,
        "there is no sum of durations beside it, only a count"
    );
}

#[test]
fn the_best_known_family_that_has_routes_is_taken() {
    let other = "http_request_duration_seconds_sum{route=\"/a\"} 2\n\
                 http_request_duration_seconds_count{route=\"/a\"} 1\n";
    let best = "http_server_requests_seconds_sum{uri=\"/b\"} 2\n\
                http_server_requests_seconds_count{uri=\"/b\"} 1\n";
    let bare = "http_server_request_duration_seconds_sum{status=\"200\"} 2\n\
                http_server_request_duration_seconds_count{status=\"200\"} 1\n";
    let page = read(&format!("{other}{best}{bare}"));
    assert_eq!(
        found(&page),
        Some(("http_server_requests_seconds", vec!["uri"], 1))
    );
    let page = read(bare);
    assert_eq!(found(&page), None);
    assert_eq!(
        page.candidates[0].name,
        "http_server_request_duration_seconds"
    );
    let own = Wanted {
        metric: Some("http_request_duration_seconds".into()),
        ..wanted()
    };
    let page = read_as(own, &format!("{other}{best}"));
    assert_eq!(told(&page), [("/a", 1.0, 2.0)]);
}

#[test]
fn a_page_without_a_known_name_offers_what_is_near() {
    let page = read(
        "go_gc_duration_seconds_count 4\n\
         app_latency_ms_count{op=\"list\",code=\"1\"} 4\n\
         app_latency_ms_sum{op=\"list\",code=\"1\"} 4\n",
    );
    let names: Vec<_> = page
        .candidates
        .iter()
        .map(|c| (c.name.as_str(), c.labels.clone()))
        .collect();
    let labels = vec!["op".to_owned(), "code".to_owned()];
    assert!(names.contains(&("app_latency_ms", labels)), "{names:?}");
}

#[test]
fn running_requests_come_from_the_gauge_with_routes() {
    let page = read(
        "http_server_active_requests{method=\"GET\"} 9\n\
         http_requests_in_flight{route=\"/a\",method=\"GET\"} 3\n\
         http_requests_in_flight{route=\"/b\",method=\"GET\"} 4\n\
         http_requests_in_flight{route=\"/b\",method=\"GET\",pod=\"2\"} 1\n\
         http_requests_in_flight{route=\"/c\",method=\"GET\"} NaN\n",
    );
    let expected = BTreeMap::from([("GET /a".to_owned(), 3.0), ("GET /b".to_owned(), 5.0)]);
    assert_eq!(page.in_flight, expected);
    assert_eq!(
        page.in_flight_metric.as_deref(),
        Some("http_requests_in_flight")
    );
    assert_eq!(page.rejected.of("bad_value"), 1);
}

#[test]
fn bad_lines_are_counted_by_reason_and_harm_nothing_else() {
    let good = "request_duration_seconds_sum{route=\"/a\"} 2\nrequest_duration_seconds_count{route=\"/a\"} 1\n";
    let cases = [
        ("other{x=1} 1\n", "labels", false),
        (
            "request_duration_seconds_sum{route=\"/b\" 1\n",
            "labels",
            true,
        ),
        (
            "request_duration_seconds_sum{route=\"/b\"} NaN\n",
            "bad_value",
            true,
        ),
        (
            "request_duration_seconds_count{route=\"/b\"} -1\n",
            "bad_value",
            true,
        ),
        (
            "request_duration_seconds_count{route=\"/b\"} +Inf\n",
            "bad_value",
            true,
        ),
        (
            "request_duration_seconds_bucket{route=\"/b\"} 1\n",
            "bad_value",
            true,
        ),
        (
            "request_duration_seconds_bucket{route=\"/b\",le=\"x\"} 1\n",
            "bad_value",
            true,
        ),
        (
            "request_duration_seconds_count{route=\"/b\"} 1 1000\n",
            "bad_time",
            true,
        ),
        (
            "request_duration_seconds_count{route=\"/b\"} 1 NaN\n",
            "bad_time",
            true,
        ),
        ("<html>\n", "name", true),
    ];
    for (bad, reason, incomplete) in cases {
        let page = read(&format!("{bad}{good}"));
        assert_eq!(told(&page), [("/a", 1.0, 2.0)], "{bad}");
        assert_eq!(page.rejected.of(reason), 1, "{bad}: {:?}", page.rejected);
        assert_eq!(page.first_rejected, Some((1, reason)), "{bad}");
        assert_eq!(page.incomplete, incomplete, "{bad}");
    }
}

#[test]
fn buckets_that_shrink_are_left_out_and_their_series_stays() {
    let page = read(
        "request_duration_seconds_bucket{route=\"/a\",le=\"1\"} 3\n\
         request_duration_seconds_bucket{route=\"/a\",le=\"2\"} 2\n\
         request_duration_seconds_sum{route=\"/a\"} 2\nrequest_duration_seconds_count{route=\"/a\"} 1\n",
    );
    assert_eq!(told(&page), [("/a", 1.0, 2.0)]);
    assert!(page.series[0].buckets.is_empty());
    assert_eq!(page.rejected.of("bad_value"), 1);
}

#[test]
fn an_openmetrics_page_ends_with_its_mark() {
    let openmetrics = || Wanted {
        openmetrics: true,
        ..wanted()
    };
    let good = format!(
        "http_server_request_duration_seconds_sum{{http_route=\"/a\"}} 2 {NOW}\n\
                http_server_request_duration_seconds_count{{http_route=\"/a\"}} 1 {NOW}\n"
    );
    let page = read_as(openmetrics(), &format!("{good}# EOF\n"));
    assert_eq!((page.series.len(), page.rejected.total()), (1, 0));
    let page = read_as(openmetrics(), &good);
    assert_eq!((page.series.len(), page.rejected.of("no_end")), (1, 1));
    let page = read_as(openmetrics(), &format!("{good}# EOF\n{good}"));
    assert_eq!((page.series.len(), page.rejected.of("after_end")), (1, 2));
}

#[test]
fn more_series_than_there_is_room_for_are_counted() {
    let mut text = String::new();
    for route in 0..MAX_SERIES + 7 {
        text.push_str(&format!(
            "request_duration_seconds_sum{{route=\"r{route}\"}} 1\n"
        ));
        text.push_str(&format!(
            "request_duration_seconds_count{{route=\"r{route}\"}} 1\n"
        ));
    }
    let page = read(&text);
    assert_eq!(page.series.len(), MAX_SERIES);
    assert_eq!(page.rejected.of("too_many_series"), 14);
    assert_eq!(told(&page)[0], ("r0", 1.0, 1.0));
    assert!(page.incomplete);
}

#[test]
fn a_series_without_its_count_or_sum_is_left_out_and_not_taken_for_nothing() {
    let whole = concat!(
        "http_request_duration_seconds_sum{route=\"/a\"} 2.5\n",
        "http_request_duration_seconds_count{route=\"/a\"} 6\n",
        "http_request_duration_seconds_sum{route=\"/b\"} 9\n",
    );
    for (damaged, rejected) in [
        ("", 1),
        (
            "http_request_duration_seconds_count{route=\"/b\" 50000\n",
            1,
        ),
    ] {
        let page = read(&format!("{whole}{damaged}"));
        assert_eq!(told(&page), [("/a", 6.0, 2.5)]);
        assert!(page.incomplete);
        assert_eq!(page.rejected.total(), rejected);
    }
    let page = read(&format!(
        "{whole}http_request_duration_seconds_count{{route=\"/b\"}} 50000\n"
    ));
    assert_eq!(told(&page), [("/a", 6.0, 2.5), ("/b", 50_000.0, 9.0)]);
}
