//! Archives that lie, trick or exhaust: what dockerd makes of them is the same through the door.

use std::fs;
use std::path::PathBuf;

use super::archive::Image;
use super::corpus::compressed;
use super::two_engines::{Loaded, TwoEngines};
use crate::common::{Tar, blob_name};

struct Bench {
    engines: TwoEngines,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let engines = TwoEngines::new();
        let folder = engines.direct.fresh_path("-archives");
        fs::create_dir_all(&folder).unwrap();
        Self { engines, folder }
    }

    fn write(&self, name: &str, tar: Tar) -> PathBuf {
        tar.write(self.folder.join(name))
    }

    /// Compares `tar` in a dockerd that has nothing and in one that has `present`.
    #[track_caller]
    fn compare(&self, name: &str, tar: &Tar, present: &Image) {
        let archive = self.write("archive", tar.clone());
        self.engines.clear();
        self.engines.compare(&format!("{name}, blobs absent"), &archive, &[]);
        self.engines.clear();
        let other = self.write("present", present.oci("present:1").end());
        self.engines.compare("what is present", &other, &[]);
        self.engines.compare(&format!("{name}, blobs present"), &archive, &[]);
    }
}

#[test]
fn a_name_is_only_a_claim() {
    let bench = Bench::new();
    let held = Image::of(&[b"one", b"two"]);
    // Its layers have the lengths of those that are held.
    let other = Image::of(&[b"eno", b"owt"]);
    let (lie, name) = (&other.layers[0], blob_name(&held.layers[0]));
    let rest = |tar: Tar| tar.blob(&other.manifest).blob(&other.config).blob(&other.layers[1]);

    // The bytes that an image needs, under the name of others.
    let disguised = rest(Tar::default().file(&name, lie)).file("index.json", other.index("lie:oci")).layout().end();
    bench.compare("an OCI layout with a blob in disguise", &disguised, &held);

    // Files that count by their names, and are not what these say.
    let mut manifest: serde_json::Value = serde_json::from_slice(&other.docker_manifest("lie:docker")).unwrap();
    manifest[0]["Layers"][0] = name.clone().into();
    let manifest = manifest.to_string();
    let docker = rest(Tar::default().file(&name, lie)).file("manifest.json", manifest.as_bytes());
    bench.compare("a docker archive with a blob in disguise", &docker.clone().end(), &held);

    // Twice, once as a lie: the last one counts.
    let last = rest(Tar::default().blob(&held.layers[0]).file(&name, lie)).file("manifest.json", manifest.as_bytes());
    bench.compare("the lie comes last", &last.end(), &held);
    let first = rest(Tar::default().file(&name, lie).blob(&held.layers[0])).file("manifest.json", manifest.as_bytes());
    bench.compare("the lie comes first", &first.end(), &held);

    // An honest one has to be sent in full.
    bench.compare("an honest docker archive", &held.docker("honest:docker").end(), &held);
    bench.compare("a docker archive without end blocks", &held.docker("honest:docker"), &held);
}

#[test]
fn tricks_with_the_form_of_an_archive_change_nothing() {
    let bench = Bench::new();
    let image = Image::of(&[b"one", b"two"]);
    let (layer, name) = (&image.layers[0], blob_name(&image.layers[0]));
    let docker = || image.docker("trick:1");
    let oci = || image.oci("trick:1");
    let hidden = Tar::default().member(b'5', "folder", "", 1024);
    let cases = [
        ("an unusable layout", docker().file("oci-layout", b"{}")),
        ("a layout of another version", oci().file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#)),
        ("a layout that is taken back", docker().layout().file("oci-layout", br#"{"imageLayoutVersion":""}"#)),
        (
            "a layout in two cases",
            docker().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0","IMAGELAYOUTVERSION":""}"#),
        ),
        ("no index", image.blobs(Tar::default()).layout()),
        ("names that lead out", oci().file("../../etc/passwd", b"x").file("/etc/passwd", b"x")),
        ("a symlink over a blob", docker().symlink(&name, "manifest.json")),
        ("a symlink to a blob", docker().symlink("blobs/sha256/alias", name.strip_prefix("blobs/sha256/").unwrap())),
        ("a symlink to nothing", docker().symlink("dangling", "nothing")),
        ("a hard link over a blob", docker().hard_link(&name, "manifest.json")),
        ("a folder with content", Tar([oci().0, hidden.0.clone(), Tar::default().blob(layer).0].concat())),
        ("a blob behind something strange", Tar([hidden.0, docker().0].concat())),
        ("a sparse file", Tar([Tar::default().member(b'S', "sparse", "", 0).0, docker().0].concat())),
        ("a blob in a second archive", Tar([oci().end().0, docker().end().0].concat())),
        ("zeros, then more", Tar([image.blobs(Tar::default()).0, vec![0; 512], docker().0].concat())),
        ("a size beyond the end", image.blobs(Tar::default()).member(b'0', &name, "", 1 << 32).content(layer)),
        ("a size that is too small", oci().member(b'0', &name, "", 100).content(&layer[..100])),
        ("nothing but an end", Tar::default()),
    ];
    for (what, tar) in cases {
        bench.compare(what, &tar.end(), &image);
    }
    bench.compare("nothing at all", &Tar::default(), &image);
    let noise: Vec<u8> = (0..70_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    bench.compare("noise", &Tar(noise), &image);
}

#[test]
fn a_cut_archive_fails_as_it_does_directly() {
    let bench = Bench::new();
    let image = Image::of(&[b"one", &[7; 3000]]);
    let whole = image.oci("cut:1").end().0;
    for length in [1, 100, 512, 700, 1024, 2000, 2048, 4000, whole.len() - 2048, whole.len() - 1100, whole.len() - 512]
    {
        bench.compare(&format!("cut at {length}"), &Tar(whole[..length].to_vec()), &image);
    }
}

#[test]
fn a_broken_compression_is_named() {
    let bench = Bench::new();
    let image = Image::of(&[b"one", b"two"]);
    let archive = bench.write("whole", image.oci("broken:1").end());
    for (program, suffix) in [("gzip", ".gz"), ("zstd", ".zst"), ("xz", ".xz"), ("bzip2", ".bz2")] {
        let compressed = compressed(&archive, program, suffix, &["-c"]);
        let bytes = fs::read(&compressed).unwrap();
        for (what, bytes) in [("cut", bytes[..bytes.len() / 2].to_vec()), ("garbled", garbled(&bytes))] {
            fs::write(&compressed, bytes).unwrap();
            bench.engines.clear();
            let direct = bench.engines.load(&compressed, &[], false);
            let through = bench.engines.load(&compressed, &[], true);
            assert_eq!((direct.code, &direct.stdout), (through.code, &through.stdout), "{program}, {what}");
            assert_eq!(direct.seen, through.seen, "{program}, {what}");
            assert!(through.code == Some(1), "{program}, {what}: {through:?}");
            let name = suffix.trim_start_matches('.');
            let is_reported = through.stderr.contains("linkspan: the archive cannot be decompressed");
            assert!(is_reported, "{name}, {what}: {} against {}", through.stderr, direct.stderr);
        }
    }
}

#[test]
fn what_is_wrong_with_the_end_of_a_compressed_archive_is_as_it_is_directly() {
    let bench = Bench::new();
    let image = Image::of(&[b"one", &[7; 200_000]]);
    let archive = bench.write("whole", image.oci("end:1").end());
    // Behind something that can be read in two ways nobody knows where an archive ends.
    let strange = Tar([Tar::default().member(b'5', "folder", "", 1024).0, image.oci("end:1").0].concat());
    let strange = bench.write("strange", strange.end());
    let (held, file) = (bench.write("held", image.oci("held:1").end()), bench.folder.join("file"));
    for (archive, programs) in [
        (archive, &[("gzip", ".gz"), ("zstd", ".zst"), ("xz", ".xz"), ("bzip2", ".bz2")][..]),
        (strange, &[("gzip", ".gz")]),
    ] {
        for (program, suffix) in programs {
            let bytes = fs::read(compressed(&archive, program, suffix, &["-c"])).unwrap();
            let mut wrong = bytes.clone();
            *wrong.last_mut().unwrap() ^= 0x55;
            for (what, bytes) in [
                ("4 bytes missing", bytes[..bytes.len() - 4].to_vec()),
                ("a wrong last byte", wrong),
                ("a newline behind it", [&bytes[..], b"\n"].concat()),
                ("zeros behind it", [&bytes[..], &[0; 700]].concat()),
                ("much text behind it", [&bytes[..], &b"and more ".repeat(200_000)].concat()),
                ("itself behind it", [&bytes[..], &bytes[..]].concat()),
            ] {
                fs::write(&file, bytes).unwrap();
                bench.engines.clear();
                bench.engines.compare("what is held", &held, &[]);
                let (direct, loaded) = (bench.engines.load(&file, &[], false), bench.engines.load(&file, &[], true));
                let outcome = |loaded: Loaded| (loaded.code, loaded.stdout, loaded.seen);
                // Whose words an error is in is another matter.
                assert_eq!(outcome(direct), outcome(loaded.clone()), "{program}, {what}");
                // dockerd's zstd yields no block without the checksum behind it, and the rest of the archive is in one.
                let expected = if *program == "zstd" && what == "4 bytes missing" {
                    (Some(1), "")
                } else {
                    (Some(0), "Loaded image: end:1")
                };
                assert_eq!((loaded.code, loaded.stdout.trim()), expected, "{program}, {what}");
            }
        }
    }
}

fn garbled(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0xaa);
    bytes
}

#[test]
fn countless_members_and_endless_zeros_cost_neither_memory_nor_much_time() {
    let bench = Bench::new();
    // How much of the program itself is resident depends on how it was built.
    let begun = bench.engines.linkspan.peak_bytes();
    let image = Image::of(&[b"one"]);
    let present = bench.write("present", image.oci("many:1").end());
    bench.engines.compare("what is present", &present, &[]);

    // A hundred thousand links and folders, and a blob that is there two thousand times.
    let mut tar = Tar::default();
    for number in 0..50_000 {
        tar = tar.member(b'5', &format!("folder{number}/"), "", 0).symlink(&format!("link{number}"), "oci-layout");
    }
    let many = bench.write("many", Tar([tar.0, image.oci("many:2").0].concat()).end());
    bench.engines.compare("many members", &many, &[]);
    // dockerd itself writes to its disk for each of them, and takes minutes for thousands where that is slow.
    let blob = Tar::default().blob(&image.layers[0]).0;
    let repeated = |count| bench.write("repeated", Tar([blob.repeat(count), image.oci("many:3").0].concat()).end());
    bench.engines.compare("a blob many times", &repeated(50), &[]);

    // 512 MB in half a megabyte.
    let zeros = bench.write("zeros", Tar(vec![0; 512 << 20]));
    let bomb = compressed(&zeros, "gzip", ".gz", &["-c"]);
    fs::remove_file(zeros).unwrap();
    bench.engines.compare("zeros", &bomb, &[]);
    assert_eq!(bench.engines.load(&repeated(2_000), &[], true).code, Some(0));
    let grown = bench.engines.linkspan.peak_bytes() - begun;
    assert!(grown <= 32 << 20, "{grown} bytes more than at the beginning were resident");
}

/// dockerd responds before it was sent all of it, and its client is in the middle of sending.
#[test]
fn a_response_that_comes_before_the_end_of_the_archive_is_read() {
    let bench = Bench::new();
    let archive = bench.folder.join("garbage");
    // No tar archive, and longer than all buffers on the way.
    fs::write(&archive, vec![b'x'; 100 << 20]).unwrap();
    for _ in 0..8 {
        bench.engines.compare("garbage", &archive, &[]);
    }
}
